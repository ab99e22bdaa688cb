"""What deployments cost per hour and draw, as SQL expressions over cases: prices and TDPs are known by GPU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from gpuscout.store.prices import PriceRules, Prices
from gpuscout.store.prices_books import prices_for
from gpuscout.store.ranking.scope import Scope
from gpuscout.store.ranking.study import tdp_w
from gpuscout.store.schema import cases


@dataclass(frozen=True)
class Worth:
    """`usd_per_hour` of a case's deployment and `tdp_w` of one of its GPUs; NULL where it is not known."""

    prices: Prices
    usd_per_hour: sa.ColumnElement[Any]
    tdp_w: sa.ColumnElement[Any]


def worth_of(connection: sa.Connection, scope: Scope, rules: PriceRules) -> Worth:
    """Prices of all GPUs of a scope. Raises UnknownNameError for a book or provider that does not exist."""
    prices = prices_for(connection, scope.gpus.ids, rules)
    usd: list[tuple[Any, float]] = []
    for name, price in prices.known.items():
        here = cases.c.gpu_id.in_(scope.gpus.ids[name])
        if not rules.whole_instances:
            usd.append((here, price.per_hour(1).usd))
            continue
        # How many GPUs are paid for is not proportional to how many are used.
        sizes = sa.select(cases.c.num_gpus).where(here).distinct()
        for num_gpus in connection.execute(sizes).scalars():
            usd.append((sa.and_(here, cases.c.num_gpus == num_gpus), price.per_hour(num_gpus).usd / num_gpus))
    per_gpu = sa.case(*usd, else_=None) if usd else sa.cast(sa.null(), sa.Double)
    return Worth(prices, per_gpu * cases.c.num_gpus, _tdp_w(connection, scope))


def _tdp_w(connection: sa.Connection, scope: Scope) -> sa.ColumnElement[Any]:
    by_name = tdp_w(connection)
    known = {row_id: by_name[name] for name, ids in scope.gpus.ids.items() if name in by_name for row_id in ids}
    return sa.case(known, value=cases.c.gpu_id, else_=None) if known else sa.cast(sa.null(), sa.Double)
