"""The first schema: what is asked, estimated and measured, and the sweeps.

Written out and never edited once released: later changes are revisions of their own.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
DIGEST = sa.LargeBinary(16)
WORD = sa.String(24)
TIME = sa.DateTime(timezone=True)
PRECISIONS = "('fp32', 'fp16', 'bf16', 'fp8', 'fp4', 'int8', 'int8-weight-only', 'int4-weight-only')"


def upgrade() -> None:
    _asked()
    _estimated()
    _measured()
    _sweeps()


def _asked() -> None:
    op.create_table(
        "models",
        sa.Column("id", ID, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("digest", DIGEST, nullable=False),
        sa.Column("architecture", sa.Text(), nullable=False),
        sa.Column("total_parameters", sa.BigInteger(), nullable=False),
        sa.Column("active_parameters", sa.BigInteger(), nullable=False),
        sa.Column("precision", WORD, nullable=False),
        sa.Column("max_context", sa.BigInteger(), nullable=True),
        sa.Column("created_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_models"),
        sa.UniqueConstraint("name", "digest", name="uq_models_name_digest"),
        sa.CheckConstraint(f"precision IN {PRECISIONS}", name=op.f("ck_models_precision")),
    )
    op.create_table(
        "gpus",
        sa.Column("id", ID, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("digest", DIGEST, nullable=False),
        sa.Column("vendor", sa.Text(), nullable=False),
        sa.Column("family", sa.Text(), nullable=False),
        sa.Column("memory_gb", sa.Double(), nullable=False),
        sa.Column("memory_bandwidth_gbs", sa.Double(), nullable=False),
        sa.Column("figures", sa.Text(), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_gpus"),
        sa.UniqueConstraint("name", "digest", name="uq_gpus_name_digest"),
    )
    op.create_table(
        "engines",
        sa.Column("id", ID, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("fingerprint", sa.Text(), nullable=False),
        sa.Column("options", sa.Text(), nullable=False),
        sa.Column("options_digest", DIGEST, nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_engines"),
        sa.UniqueConstraint("name", "fingerprint", "options_digest", name="uq_engines_name_fingerprint_options_digest"),
    )
    op.create_table(
        "cases",
        sa.Column("id", ID, nullable=False),
        sa.Column("digest", DIGEST, nullable=False),
        sa.Column("model_id", ID, nullable=False),
        sa.Column("gpu_id", ID, nullable=False),
        sa.Column("tensor_parallel", sa.Integer(), nullable=False),
        sa.Column("pipeline_parallel", sa.Integer(), nullable=False),
        sa.Column("data_parallel", sa.Integer(), nullable=False),
        sa.Column("expert_parallel", sa.Integer(), nullable=False),
        sa.Column("num_gpus", sa.Integer(), nullable=False),
        sa.Column("precision", WORD, nullable=False),
        sa.Column("kv_precision", WORD, nullable=True),
        sa.Column("server", sa.Text(), nullable=False),
        sa.Column("gpu_memory_utilization", sa.Double(), nullable=False),
        sa.Column("max_model_len", sa.BigInteger(), nullable=False),
        sa.Column("input_len", sa.BigInteger(), nullable=False),
        sa.Column("output_len", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_cases"),
        sa.UniqueConstraint("digest", name="uq_cases_digest"),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"], name="fk_cases_model_id"),
        sa.ForeignKeyConstraint(["gpu_id"], ["gpus.id"], name="fk_cases_gpu_id"),
        sa.CheckConstraint(f"precision IN {PRECISIONS}", name=op.f("ck_cases_precision")),
        sa.CheckConstraint(f"kv_precision IN {PRECISIONS}", name=op.f("ck_cases_kv_precision")),
    )
    op.create_index("ix_cases_model_id_input_len_output_len", "cases", ["model_id", "input_len", "output_len"])


def _estimated() -> None:
    op.create_table(
        "ladders",
        sa.Column("id", ID, nullable=False),
        sa.Column("concurrencies", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_ladders"),
        sa.UniqueConstraint("concurrencies", name="uq_ladders_concurrencies"),
    )
    op.create_table(
        "tasks",
        sa.Column("id", ID, nullable=False),
        sa.Column("key", DIGEST, nullable=False),
        sa.Column("case_id", ID, nullable=False),
        sa.Column("engine_id", ID, nullable=False),
        sa.Column("ladder_id", ID, nullable=False),
        sa.Column("outcome", WORD, nullable=False),
        sa.Column("detail", sa.Text(), nullable=True),
        sa.Column("extras", sa.Text(), nullable=True),
        sa.Column("needed_gib", sa.Double(), nullable=True),
        sa.Column("usable_gib", sa.Double(), nullable=True),
        sa.Column("kv_capacity_tokens", sa.BigInteger(), nullable=True),
        sa.Column("fits_up_to", sa.BigInteger(), nullable=True),
        sa.Column("created_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_tasks"),
        sa.UniqueConstraint("key", name="uq_tasks_key"),
        sa.ForeignKeyConstraint(["case_id"], ["cases.id"], name="fk_tasks_case_id"),
        sa.ForeignKeyConstraint(["engine_id"], ["engines.id"], name="fk_tasks_engine_id"),
        sa.ForeignKeyConstraint(["ladder_id"], ["ladders.id"], name="fk_tasks_ladder_id"),
        sa.CheckConstraint(
            "outcome IN ('ok', 'does_not_fit', 'not_supported', 'unknown_model', 'invalid')",
            name=op.f("ck_tasks_outcome"),
        ),
    )
    op.create_index("ix_tasks_case_id_engine_id", "tasks", ["case_id", "engine_id"])
    op.create_table(
        "operating_points",
        sa.Column("task_id", ID, nullable=False),
        sa.Column("concurrency", sa.Integer(), nullable=False),
        sa.Column("ttft_ms", sa.Double(), nullable=True),
        sa.Column("itl_ms", sa.Double(), nullable=True),
        sa.Column("e2e_s", sa.Double(), nullable=True),
        sa.Column("output_tokens_per_s", sa.Double(), nullable=True),
        sa.Column("requests_per_s", sa.Double(), nullable=True),
        sa.Column("bound", WORD, nullable=False),
        sa.Column("queued", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("task_id", "concurrency", name="pk_operating_points"),
        sa.CheckConstraint(
            "bound IN ('memory', 'compute', 'communication', 'overhead', 'unknown')",
            name=op.f("ck_operating_points_bound"),
        ),
        sqlite_with_rowid=False,
    )


def _measured() -> None:
    op.create_table(
        "measured_runs",
        sa.Column("id", ID, nullable=False),
        sa.Column("digest", DIGEST, nullable=False),
        sa.Column("case_id", ID, nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("tool", sa.Text(), nullable=True),
        sa.Column("measured_on", sa.Date(), nullable=True),
        sa.Column("imported_at", TIME, nullable=False),
        sa.Column("server_version", sa.Text(), nullable=True),
        sa.Column("load", WORD, nullable=False),
        sa.Column("concurrency", sa.Integer(), nullable=True),
        sa.Column("request_rate", sa.Double(), nullable=True),
        sa.Column("ttft_ms", sa.Double(), nullable=True),
        sa.Column("itl_ms", sa.Double(), nullable=True),
        sa.Column("e2e_s", sa.Double(), nullable=True),
        sa.Column("output_tokens_per_s", sa.Double(), nullable=True),
        sa.Column("requests_per_s", sa.Double(), nullable=True),
        sa.Column("native_itl_name", sa.Text(), nullable=True),
        sa.Column("native_itl_ms", sa.Double(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_measured_runs"),
        sa.UniqueConstraint("digest", name="uq_measured_runs_digest"),
        sa.ForeignKeyConstraint(["case_id"], ["cases.id"], name="fk_measured_runs_case_id"),
        sa.CheckConstraint(
            "load IN ('closed_loop', 'request_rate', 'offline_maximum')", name=op.f("ck_measured_runs_load")
        ),
    )
    op.create_index("ix_measured_runs_case_id", "measured_runs", ["case_id"])
    op.create_table(
        "percentiles",
        sa.Column("run_id", ID, nullable=False),
        sa.Column("metric", WORD, nullable=False),
        sa.Column("percentile", sa.Double(), nullable=False),
        sa.Column("value", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("run_id", "metric", "percentile", name="pk_percentiles"),
        sa.ForeignKeyConstraint(["run_id"], ["measured_runs.id"], name="fk_percentiles_run_id"),
        sqlite_with_rowid=False,
    )


def _sweeps() -> None:
    op.create_table(
        "sweeps",
        sa.Column("id", ID, nullable=False),
        sa.Column("digest", DIGEST, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("latest_run", sa.BigInteger(), nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("spec_text", sa.Text(), nullable=False),
        sa.Column("resolved", sa.Text(), nullable=False),
        sa.Column("combinations", sa.BigInteger(), nullable=False),
        sa.Column("task_count", sa.BigInteger(), nullable=False),
        sa.Column("excluded_count", sa.BigInteger(), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("finished_at", TIME, nullable=True),
        sa.Column("cancelled_at", TIME, nullable=True),
        sa.Column("gpuscout_version", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_sweeps"),
        sa.UniqueConstraint("digest", name="uq_sweeps_digest"),
        sa.UniqueConstraint("name", "revision", name="uq_sweeps_name_revision"),
    )
    op.create_table(
        "sweep_engines",
        sa.Column("sweep_id", ID, nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("engine_id", ID, nullable=False),
        sa.Column("ladder_id", ID, nullable=False),
        sa.Column("block_size", sa.BigInteger(), nullable=False),
        sa.Column("first_block", sa.BigInteger(), nullable=False),
        sa.Column("block_count", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("sweep_id", "position", name="pk_sweep_engines"),
        sa.ForeignKeyConstraint(["sweep_id"], ["sweeps.id"], name="fk_sweep_engines_sweep_id"),
        sa.ForeignKeyConstraint(["engine_id"], ["engines.id"], name="fk_sweep_engines_engine_id"),
        sa.ForeignKeyConstraint(["ladder_id"], ["ladders.id"], name="fk_sweep_engines_ladder_id"),
    )
    op.create_table(
        "sweep_workloads",
        sa.Column("sweep_id", ID, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("input_len", sa.BigInteger(), nullable=False),
        sa.Column("output_len", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("sweep_id", "name", name="pk_sweep_workloads"),
        sa.ForeignKeyConstraint(["sweep_id"], ["sweeps.id"], name="fk_sweep_workloads_sweep_id"),
    )
    op.create_table(
        "membership",
        sa.Column("sweep_id", ID, nullable=False),
        sa.Column("task_id", ID, nullable=False),
        sa.PrimaryKeyConstraint("sweep_id", "task_id", name="pk_membership"),
        sa.ForeignKeyConstraint(["sweep_id"], ["sweeps.id"], name="fk_membership_sweep_id"),
        sa.ForeignKeyConstraint(["task_id"], ["tasks.id"], name="fk_membership_task_id"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_membership_task_id", "membership", ["task_id"])
    op.create_table(
        "exclusions",
        sa.Column("id", ID, nullable=False),
        sa.Column("sweep_id", ID, nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=True),
        sa.Column("gpu", sa.Text(), nullable=True),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("combinations", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_exclusions"),
        sa.ForeignKeyConstraint(["sweep_id"], ["sweeps.id"], name="fk_exclusions_sweep_id"),
    )
    op.create_index("ix_exclusions_sweep_id", "exclusions", ["sweep_id"])
    op.create_table(
        "runners",
        sa.Column("id", ID, nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("started_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_runners"),
    )
    op.create_table(
        "blocks",
        sa.Column("sweep_id", ID, nullable=False),
        sa.Column("block", sa.BigInteger(), nullable=False),
        sa.Column("state", WORD, nullable=False),
        sa.Column("runner_id", ID, nullable=True),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("task_count", sa.BigInteger(), nullable=False),
        sa.Column("failure_count", sa.BigInteger(), nullable=False),
        sa.Column("finished_at", TIME, nullable=True),
        sa.PrimaryKeyConstraint("sweep_id", "block", name="pk_blocks"),
        sa.ForeignKeyConstraint(["sweep_id"], ["sweeps.id"], name="fk_blocks_sweep_id"),
        sa.ForeignKeyConstraint(["runner_id"], ["runners.id"], name="fk_blocks_runner_id"),
        sa.CheckConstraint("state IN ('pending', 'claimed', 'done')", name=op.f("ck_blocks_state")),
    )
    op.create_index("ix_blocks_sweep_id_state_block", "blocks", ["sweep_id", "state", "block"])
    op.create_table(
        "failures",
        sa.Column("id", ID, nullable=False),
        sa.Column("sweep_id", ID, nullable=False),
        sa.Column("block", sa.BigInteger(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("task_key", DIGEST, nullable=False),
        sa.Column("case_id", ID, nullable=False),
        sa.Column("engine_id", ID, nullable=False),
        sa.Column("outcome", WORD, nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("failed_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_failures"),
        sa.ForeignKeyConstraint(
            ["sweep_id", "block"], ["blocks.sweep_id", "blocks.block"], name="fk_failures_sweep_id_block"
        ),
        sa.ForeignKeyConstraint(["case_id"], ["cases.id"], name="fk_failures_case_id"),
        sa.ForeignKeyConstraint(["engine_id"], ["engines.id"], name="fk_failures_engine_id"),
        sa.CheckConstraint(
            "outcome IN ('error', 'timeout', 'crashed', 'gated', 'engine_missing')",
            name=op.f("ck_failures_outcome"),
        ),
    )
    op.create_index("ix_failures_sweep_id_block", "failures", ["sweep_id", "block"])
    op.create_index("ix_failures_case_id", "failures", ["case_id"])
