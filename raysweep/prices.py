"""The cost of a plan on rented machines: a small editable table of prices, and the arithmetic spelt out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from raysweep.cost import clock
from raysweep.errors import PriceError, SweepError, nearest
from raysweep.pack import lanes_per_pack
from raysweep.plan import Plan
from raysweep.terminal import counted
from raysweep.validation import first_fault
from raysweep.yamlfile import read_yaml

__all__ = ["PRICES", "Machine", "estimate", "find_machine", "read_prices", "sentences"]

PRICES = Path(__file__).with_suffix(".yaml")


class Machine(BaseModel):
    """One row of the table. Prices are US dollars per hour."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    provider: str = Field(min_length=1)
    name: str = Field(min_length=1)
    gpus: int = Field(ge=0)
    gpu: str = ""
    cpus: int = Field(ge=1)
    memory_gib: float = Field(gt=0)
    on_demand: float = Field(ge=0)
    spot: float | None = Field(None, ge=0)
    as_of: str | date
    source: str = Field(min_length=1)

    @property
    def key(self) -> str:
        """As given to --price."""
        return f"{self.provider}:{self.name}"


def read_prices(path: Path | None = None) -> tuple[Machine, ...]:
    """The machines of a price table; the one that comes with raysweep if no path is given.

    Raises:
        PriceError: the file is missing, is not YAML, lacks a key or has a wrong value; the message names file and key.
    """
    path = path or PRICES
    try:
        raw = read_yaml(path)
    except SweepError as error:
        raise PriceError(str(error)) from error
    rows = raw.get("machines") if isinstance(raw, Mapping) else None
    if not isinstance(rows, Sequence) or isinstance(rows, str) or not rows:
        raise PriceError(f"{path}: machines: must be a list of machines, but got {rows!r}"[:300])
    found = []
    for i, row in enumerate(rows):
        try:
            found.append(Machine.model_validate(row))
        except ValidationError as error:
            fault = first_fault(error.errors(), row)
            key = ".".join(map(str, ("machines", i, *fault.place)))
            raise PriceError(f"{path}: {key}: {fault.broken}"[:300]) from error
    return tuple(found)


def find_machine(machines: Sequence[Machine], wanted: str) -> Machine:
    """The machine that a user means: `aws:p5.48xlarge`, or a beginning of it that fits one machine only.

    A whole family takes precedence over a longer name: `aws:p5` is p5.48xlarge, not p5en.48xlarge.

    Raises:
        PriceError: none or several fit; the nearest names, or those that fit, are listed.
    """
    for fits in (
        [m for m in machines if m.key == wanted],
        [m for m in machines if m.key.startswith((f"{wanted}.", f"{wanted}-", f"{wanted}_"))],
        [m for m in machines if m.key.startswith(wanted)],
    ):
        if len(fits) == 1:
            return fits[0]
        if fits:
            keys = ", ".join(m.key for m in fits)
            raise PriceError(f"--price: must fit one machine, but {wanted!r} fits {len(fits)}: {keys}")
    provider = wanted.partition(":")[0]
    own = [m.key for m in machines if m.provider == provider]
    raise PriceError(
        f"--price: must be provider:machine of the price table, but got {wanted!r}. "
        f"{nearest(wanted, own or [m.key for m in machines])}. Others: give a table of your own by --prices FILE"
    )


def estimate(plan: Plan, machine: Machine, machines: int = 1) -> dict[str, Any]:
    """The cost of a plan's packs on some machines of one kind, as plain data.

    Packs are sized for that many slots, as in a run there. The machines are held until the last pack ends, which is
    no sooner than the most expensive pack alone. Start-up, training of worlds and storage are not included.

    Raises:
        PriceError: a pack does not fit on such a machine, or the experiment states no cost.
    """
    resources = plan.sweep.file.resources
    if machines < 1:
        raise PriceError(f"--machines: must be at least 1, but got {machines}")
    if plan.runs.cells and not plan.flops:
        raise PriceError(
            f"--price: the experiment must state what a run costs, but {plan.sweep.experiment.name} states no FLOPs. "
            "Time a few runs of a plain function and multiply"
        )
    workers = max(plan.workers, default=resources.workers_per_run)
    need_cpus, need_gpus = (each * workers for each in (resources.cpus, resources.gpus))
    by_cpu = int(machine.cpus / need_cpus)
    by_gpu = int(machine.gpus / need_gpus) if need_gpus else by_cpu
    each = min(by_cpu, by_gpu)
    if not each:
        cpus = ("cpus", machine.cpus, need_cpus)
        lacks, has, need = cpus if not by_cpu else ("gpus", machine.gpus, need_gpus)
        raise PriceError(f"--price: resources.{lacks}: a pack needs {need:g}, but {machine.key} has {has}")
    slots = each * machines
    most = lanes_per_pack(plan.groups, plan.memory, slots, resources.lanes)
    packs = sum(math.ceil(len(g.index) / m) for g, m in zip(plan.groups, most, strict=True))
    longest = max((m * (g.cost.flops + g.cost.flops_eval) for g, m in zip(plan.groups, most, strict=True)), default=0.0)
    seconds = max(plan.flops / slots, longest) / plan.rate.flops
    hours = machines * seconds / 3600
    return {
        "machine": machine.key,
        "machines": machines,
        "gpus": machine.gpus,
        "gpu": machine.gpu,
        "cpus": machine.cpus,
        "packs": packs,
        "packs_per_machine": each,
        "packs_limited_by": "gpus" if by_gpu < by_cpu else "cpus",
        "per_pack": {"cpus": need_cpus, "gpus": need_gpus},
        "seconds": seconds,
        "machine_hours": hours,
        "on_demand_usd_per_hour": machine.on_demand,
        "spot_usd_per_hour": machine.spot,
        "on_demand_usd": hours * machine.on_demand,
        "spot_usd": None if machine.spot is None else hours * machine.spot,
        "as_of": str(machine.as_of),
        "source": machine.source,
        "rate_measured": plan.rate.measured,
        "rate": plan.rate.source,
    }


def sentences(found: Mapping[str, Any]) -> list[str]:
    """An estimate in words, with what it assumes."""
    has = f"{found['gpus']} x {found['gpu']}, {found['cpus']} CPUs" if found["gpus"] else f"{found['cpus']} CPUs"
    limit = found["packs_limited_by"]
    spot = "spot unknown"
    if found["spot_usd"] is not None:
        spot = f"about ${_money(found['spot_usd'])} on spot (${found['spot_usd_per_hour']:g}/h)"
    lines = [
        f"price: about ${_money(found['on_demand_usd'])} on demand (${found['on_demand_usd_per_hour']:g}/h), {spot}",
        f"  {found['machine_hours']:,.2f} machine-hours: {clock(found['seconds'])} on {found['machines']} x "
        f"{found['machine']} ({has})",
        f"  {counted(found['packs_per_machine'], 'pack')} at a time on each: {found[limit]} {limit}, "
        f"{found['per_pack'][limit]:g} per pack; start-up, oracles, storage and idle time are not counted",
        f"  prices as of {found['as_of']}: {found['source']}; check them before you trust this",
    ]
    slots = found["packs_per_machine"] * found["machines"]
    if found["packs"] < slots:
        lines.append(f"  only {counted(found['packs'], 'pack')} for {slots:,} places: more machines would stay idle")
    if found["gpus"] and not found["per_pack"]["gpus"]:
        lines.append(f"  its {found['gpus']} GPUs stay idle: this sweep asks for none (resources.gpus)")
    if found["rate_measured"]:
        lines.append(f"  the rate is {found['rate']}: right as far as this machine is as fast as those")
    else:
        lines.append(
            "  A GUESS: the rate is assumed, nothing was measured in this store. Run a small preset there first"
        )
    return lines


def _money(dollars: float) -> str:
    return f"{dollars:,.0f}" if dollars >= 100 else f"{dollars:,.2f}" if dollars >= 0.01 or not dollars else "0.01"
