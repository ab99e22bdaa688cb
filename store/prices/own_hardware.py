"""The hourly cost of a GPU to its owner: purchase, power and upkeep, spread over the hours in which it is used."""

from __future__ import annotations

import math
from dataclasses import dataclass

from gpuscout.store.prices.csv_file import check_price
from gpuscout.sweeps.errors import InputError

HOURS_PER_YEAR = 8_760


@dataclass(frozen=True)
class OwnHardware:
    """GPUs in servers of one's own. Raises InputError for impossible figures.

    capex_usd          of one GPU
    years              over which it is written off
    kw                 drawn per GPU, its share of the server included, used or not
    pue                power of the building for one unit of power of the servers, at least 1
    utilisation        share of all hours in which the GPU is used
    server_capex_usd   of a server without its GPUs, shared by `servers_of` GPUs
    opex_usd_per_year  of one GPU: space, staff, support
    """

    capex_usd: float
    years: float
    kw: float
    usd_per_kwh: float
    pue: float = 1.0
    utilisation: float = 1.0
    servers_of: int = 1
    server_capex_usd: float = 0.0
    opex_usd_per_year: float = 0.0

    def __post_init__(self) -> None:
        for name, called, low, high, what in _BOUNDS:
            value = getattr(self, name)
            if not (math.isfinite(value) and low <= value <= high):
                raise InputError(f"invalid {called} {value:,.10g}: expected {what} from {low:,.10g} to {high:,.10g}")
        if wrong := check_price(self.usd_per_gpu_hour):
            raise InputError(f"{wrong}\n    {self.arithmetic}")

    @property
    def capital_usd_per_hour(self) -> float:
        """Of one GPU and its share of the server, for every hour of its life."""
        return (self.capex_usd + self.server_capex_usd / self.servers_of) / (self.years * HOURS_PER_YEAR)

    @property
    def power_usd_per_hour(self) -> float:
        return self.kw * self.pue * self.usd_per_kwh

    @property
    def opex_usd_per_hour(self) -> float:
        return self.opex_usd_per_year / HOURS_PER_YEAR

    @property
    def usd_per_gpu_hour(self) -> float:
        """All costs of an hour, paid by the hours in which the GPU is used."""
        return (self.capital_usd_per_hour + self.power_usd_per_hour + self.opex_usd_per_hour) / self.utilisation

    @property
    def arithmetic(self) -> str:
        """The whole calculation as a text, with every figure that entered it."""
        bought = f"{self.capex_usd:,.10g} USD"
        if self.server_capex_usd:
            bought = f"({bought} + {self.server_capex_usd:,.10g} USD of server / {self.servers_of} GPUs)"
        capital = f"{bought} / ({self.years:g} years x {HOURS_PER_YEAR:,} h)"
        power = f"{self.kw:g} kW x PUE {self.pue:g} x {self.usd_per_kwh:g} USD/kWh"
        upkeep = f"{self.opex_usd_per_year:,.10g} USD a year / {HOURS_PER_YEAR:,} h = {self.opex_usd_per_hour:.4f}"
        costs = [f"{capital} = {self.capital_usd_per_hour:.4f}", f"{power} = {self.power_usd_per_hour:.4f}"]
        costs += [upkeep] * (self.opex_usd_per_year > 0)
        used = f"used in {self.utilisation:.10g} of all hours" if self.utilisation < 1 else "used in all hours"
        return f"own hardware, USD an hour: {'; '.join(costs)}; {used}: {self.usd_per_gpu_hour:.4f} per GPU hour"


_BOUNDS = (
    ("capex_usd", "capex", 1, 1e7, "USD"),
    ("years", "years", 0.1, 30, "years"),
    ("kw", "kw", 0, 100, "kW"),
    ("usd_per_kwh", "usd-per-kwh", 0, 10, "USD"),
    ("pue", "pue", 1, 5, "a ratio"),
    ("utilisation", "utilisation", 0.001, 1, "a share"),
    ("servers_of", "servers-of", 1, 1_000, "GPUs"),
    ("server_capex_usd", "server-capex", 0, 1e8, "USD"),
    ("opex_usd_per_year", "opex-per-year", 0, 1e7, "USD"),
)
