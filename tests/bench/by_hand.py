"""The best SQL that we could write by hand for what `gpuscout recommend` tells of a whole store.

The statements know what they read: one engine, one version of every name, no measured runs. `best` returns what is best
for each model and workload. `told` returns all that a ranking tells of each: the best and the next GPU type with their
settings and figures, the types that would be best at another of their prices, and how many of the other configurations
are out for what, with the nearest of them.
"""

from __future__ import annotations

from collections.abc import Iterator

import sqlalchemy as sa

from gpuscout.store.prices.books import prices_for
from gpuscout.store.prices.prices import PriceRules
from gpuscout.store.schema import gpus

# No limit; ITL; ITL and TTFT.
_WITHIN = ("", "AND itl_ms <= 30", "AND itl_ms <= 30 AND ttft_ms <= 2000")
_RATIO = ("", "itl_ms / 30", "{greatest}(itl_ms / 30, ttft_ms / 2000)")
_CAUSE = ("", "'itl'", "CASE WHEN itl_ms / 30 >= ttft_ms / 2000 THEN 'itl' ELSE 'ttft' END")

# The best stored point of every task, in one pass over the points.
_BEST = {
    "sqlite": """
        SELECT task_id, concurrency AS c0, ttft_ms AS ttft0, itl_ms AS itl0, output_tokens_per_s AS tokens0, queued,
               max(output_tokens_per_s - 1e9 * queued)
        FROM operating_points WHERE output_tokens_per_s > 0 {within} GROUP BY task_id""",
    "distinct on": """
        SELECT DISTINCT ON (task_id) task_id, concurrency AS c0, ttft_ms AS ttft0, itl_ms AS itl0,
               output_tokens_per_s AS tokens0, queued
        FROM operating_points WHERE output_tokens_per_s > 0 {within}
        ORDER BY task_id, queued, output_tokens_per_s DESC""",
    "array": """
        SELECT task_id, a[3]::int AS c0, a[4] AS ttft0, a[5] AS itl0, -a[2] AS tokens0, a[1] = 1 AS queued FROM (
            SELECT task_id, min(ARRAY[queued::int, -output_tokens_per_s, concurrency, ttft_ms, itl_ms]) AS a
            FROM operating_points WHERE output_tokens_per_s > 0 {within} GROUP BY task_id) AS aggregated""",
}
# Between it and the next one above: the highest whole concurrency within both limits.
_BETWEEN = """
    pair AS (
        SELECT best.*, next.concurrency AS c1, next.ttft_ms AS ttft1, next.itl_ms AS itl1,
               next.output_tokens_per_s AS tokens1
        FROM best LEFT JOIN {next}),
    limited AS (
        SELECT pair.*, {least}(
            c1 - 1,
            CASE WHEN itl1 > itl0 THEN {floor}(c0 + (30 - itl0) / (itl1 - itl0) * (c1 - c0){end} ELSE c1 - 1 END,
            CASE WHEN ttft1 > ttft0 THEN {floor}(c0 + (2000 - ttft0) / (ttft1 - ttft0) * (c1 - c0){end} ELSE c1 - 1 END
        ) AS c
        FROM pair),
    found AS (
        SELECT task_id, CASE WHEN c > c0 AND tokens1 > tokens0 THEN c ELSE c0 END AS concurrency,
               CASE WHEN c > c0 AND tokens1 > tokens0
                    THEN tokens0 + (tokens1 - tokens0) * (c - c0) / (c1 - c0) ELSE tokens0 END AS tokens
        FROM limited)"""
_STORED = "found AS (SELECT task_id, c0 AS concurrency, tokens0 AS tokens FROM best)"
_NEXT = {
    "sqlite": """operating_points AS next ON next.task_id = best.task_id AND next.queued <= best.queued
        AND next.concurrency = (SELECT min(concurrency) FROM operating_points AS above
                                WHERE above.task_id = best.task_id AND above.concurrency > best.c0)""",
    "postgresql": """LATERAL (
            SELECT * FROM operating_points AS above WHERE above.task_id = best.task_id AND above.concurrency > best.c0
            ORDER BY concurrency LIMIT 1) AS next ON next.queued <= best.queued""",
}
# What is best for each model and workload.
_WINNERS = {
    "sqlite": """
        SELECT model_id, input_len, output_len, task_id, concurrency, min(num_gpus * usd / (tokens * 0.0036)) AS cost
        FROM found CROSS JOIN tasks ON tasks.id = task_id JOIN cases ON cases.id = case_id
        JOIN price ON price.gpu_id = cases.gpu_id GROUP BY model_id, input_len, output_len""",
    "postgresql": """
        SELECT DISTINCT ON (model_id, input_len, output_len) model_id, input_len, output_len, task_id, concurrency,
               num_gpus * usd / (tokens * 0.0036) AS cost
        FROM found JOIN tasks ON tasks.id = task_id JOIN cases ON cases.id = case_id
        JOIN price ON price.gpu_id = cases.gpu_id ORDER BY model_id, input_len, output_len, cost""",
}
# The best configuration of every GPU type; those without a price have no cost.
_TYPES = {
    "sqlite": """, types AS (
        SELECT model_id, input_len, output_len, gpu_id, task_id, concurrency, low, high, count(*) AS configurations,
               min(num_gpus * usd / (tokens * 0.0036)) AS cost
        FROM found CROSS JOIN tasks ON tasks.id = task_id JOIN cases ON cases.id = case_id
        LEFT JOIN price USING (gpu_id) GROUP BY model_id, input_len, output_len, gpu_id)""",
    "postgresql": """, types AS (
        SELECT model_id, input_len, output_len, gpu_id, a[2]::bigint AS task_id, a[3]::int AS concurrency, low, high,
               configurations, a[1] AS cost
        FROM (SELECT model_id, input_len, output_len, gpu_id, low, high, count(*) AS configurations,
                     min(ARRAY[num_gpus * usd / (tokens * 0.0036), task_id, concurrency]) AS a
              FROM found JOIN tasks ON tasks.id = task_id JOIN cases ON cases.id = case_id
              LEFT JOIN price USING (gpu_id)
              GROUP BY model_id, input_len, output_len, gpu_id, low, high) AS aggregated)""",
}
_TOLD = """, ranked AS (
        SELECT types.*, rank() OVER (PARTITION BY model_id, input_len, output_len ORDER BY cost IS NULL, cost) AS place,
               sum(configurations) OVER whole AS qualify, min(cost) OVER whole AS lowest
        FROM types WINDOW whole AS (PARTITION BY model_id, input_len, output_len))
    SELECT ranked.*, cases.*, models.name AS model, gpus.name AS gpu, engines.name, fingerprint, points.*
    FROM ranked JOIN tasks ON tasks.id = ranked.task_id JOIN cases ON cases.id = case_id
    JOIN models ON models.id = ranked.model_id JOIN gpus ON gpus.id = ranked.gpu_id
    JOIN engines ON engines.id = engine_id
    LEFT JOIN operating_points AS points ON points.task_id = ranked.task_id AND points.concurrency = ranked.concurrency
    WHERE cost IS NULL OR place <= 2 OR cost * low < lowest"""
# By cause how many configurations of each model and workload are out, and the nearest of them.
_REFUSED = {
    "sqlite": """
        SELECT model_id, input_len, output_len, outcome AS cause, count(*) AS configurations, tasks.id AS task_id,
               min(needed_gib / usable_gib) AS ratio
        FROM tasks JOIN cases ON cases.id = case_id WHERE outcome != 'ok'
        GROUP BY model_id, input_len, output_len, outcome""",
    "postgresql": """
        SELECT model_id, input_len, output_len, outcome AS cause, count(*) AS configurations,
               (min(ARRAY[needed_gib / usable_gib, tasks.id]))[1] AS ratio
        FROM tasks JOIN cases ON cases.id = case_id WHERE outcome != 'ok'
        GROUP BY model_id, input_len, output_len, outcome""",
}
_MISSED = {
    "sqlite": """
        WITH near AS (
            SELECT task_id, concurrency, ttft_ms, itl_ms, min({ratio}) AS ratio
            FROM tasks CROSS JOIN operating_points ON task_id = tasks.id WHERE outcome = 'ok' AND {not_met}
            GROUP BY task_id)
        SELECT model_id, input_len, output_len, {cause} AS cause, count(*) AS configurations, task_id, concurrency,
               min(ratio) AS ratio
        FROM near JOIN tasks ON tasks.id = task_id JOIN cases ON cases.id = case_id
        GROUP BY model_id, input_len, output_len, cause""",
    "postgresql": """
        WITH near AS (
            SELECT DISTINCT ON (task_id) task_id, concurrency, ttft_ms, itl_ms, {ratio} AS ratio
            FROM tasks JOIN operating_points ON task_id = tasks.id WHERE outcome = 'ok' AND {not_met}
            ORDER BY task_id, ratio)
        SELECT model_id, input_len, output_len, {cause} AS cause, count(*) AS configurations,
               (min(ARRAY[ratio, task_id, concurrency]))[1] AS ratio
        FROM near JOIN tasks ON tasks.id = task_id JOIN cases ON cases.id = case_id
        GROUP BY model_id, input_len, output_len, cause""",
}
_NOT_MET = """NOT EXISTS (SELECT 1 FROM operating_points AS met WHERE met.task_id = tasks.id
                AND met.output_tokens_per_s > 0 {within})"""


def best(connection: sa.Connection, number: int) -> Iterator[tuple[str, ...]]:
    """Ways to ask for what is best under the limits of this number; which is quickest depends on the database."""
    for found in _found(connection, number):
        yield (found + _WINNERS[connection.dialect.name],)


def told(connection: sa.Connection, number: int) -> Iterator[tuple[str, ...]]:
    """Ways to ask for all that a ranking tells, of several statements each: what qualifies, and twice what does not."""
    dialect = connection.dialect.name
    out = [_REFUSED[dialect]]
    if _WITHIN[number]:
        ratio = _RATIO[number].format(greatest="max" if dialect == "sqlite" else "greatest")
        not_met = _NOT_MET.format(within=_WITHIN[number])
        out.append(_MISSED[dialect].format(ratio=ratio, cause=_CAUSE[number], not_met=not_met))
    for found in _found(connection, number):
        yield (found + _TYPES[dialect] + _TOLD, *out)


def _found(connection: sa.Connection, number: int) -> Iterator[str]:
    """The beginning of a statement: prices, and the point of every configuration that qualifies."""
    dialect = connection.dialect.name
    ids = {row.name: row.id for row in connection.execute(sa.select(gpus.c.name, gpus.c.id))}
    known = prices_for(connection, list(ids), PriceRules()).known
    hourly = {ids[name]: price.per_hour(1) for name, price in known.items()}
    price = ", ".join(
        f"({gpu}, CAST({usd.usd!r} AS DOUBLE PRECISION), CAST({usd.low / usd.usd!r} AS DOUBLE PRECISION), "
        f"CAST({usd.high / usd.usd!r} AS DOUBLE PRECISION))"
        for gpu, usd in hourly.items()
    )
    sqlite = dialect == "sqlite"
    least, floor, end = ("min", "CAST(", ") AS INTEGER)") if sqlite else ("least", "floor(", "))")
    points = _BETWEEN.format(next=_NEXT[dialect], least=least, floor=floor, end=end) if number == 2 else _STORED
    for way in ["sqlite"] if sqlite else ["distinct on", "array"]:
        found = _BEST[way].format(within=_WITHIN[number])
        yield f"WITH price (gpu_id, usd, low, high) AS (VALUES {price}), best AS ({found}), {points}"
