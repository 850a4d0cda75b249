"""Write the sample tables again, byte for byte: a station of four pumps with real hydraulics, one row a minute and machine.

    python data/make_samples.py [FOLDER]        # normal.parquet, new.csv, labelled.parquet; the default is this folder

Knows nothing about vae_anomaly. Centrifugal pump: head ``H = H0 s² − a Q²`` with ``s = speed / rated speed`` (affinity laws);
pipe: ``H = Hs + k Q²`` with ``k`` falling as the valve opens; the flow is where both agree. Power is ``ρ g Q H / (η η_motor)``.
A fault changes the machine, or a sensor, and then the same equations run. Units are in the column names.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

SEED = 20250303
GRAVITY = 9.81  # m/s²
DENSITY = 998.0  # kg/m³, water at 20 °C
MOTOR_EFFICIENCY = 0.91
RATED_RPM = 2900.0
L_MIN = 60_000.0  # L/min in one m³/s
DAY = 1440  # minutes

# Which cells of a row are wrong while the fault lasts; the others follow from them, or stay as they were.
FAULTS: dict[str, tuple[str, ...]] = {
    "cavitation": ("vibration_mm_s", "flow_l_min", "pressure_bar"),
    "bearing_wear": ("vibration_mm_s", "bearing_temperature_c"),
    "leak": ("flow_l_min", "pressure_bar"),
    "stuck_sensor": ("flow_l_min",),
    "wrong_mode": ("mode",),
}

# Sensor: (constant noise, noise relative to the reading, decimals shown)
SENSORS: dict[str, tuple[float, float, int]] = {
    "speed_rpm": (2.0, 0.0, 0),
    "valve_percent": (0.3, 0.0, 1),
    "flow_l_min": (1.5, 0.006, 1),
    "pressure_bar": (0.012, 0.003, 3),
    "power_kw": (0.02, 0.008, 2),
    "vibration_mm_s": (0.02, 0.035, 2),
    "bearing_temperature_c": (0.25, 0.0, 1),
    "fluid_temperature_c": (0.12, 0.0, 1),
}
LEAK = 26.0  # L/min through the hole for √(m of head), at severity 1
MISSING = 0.01  # share of lost cells, in the sensors and in mode and filter_bypass

# Mode: (speed in rpm without and with full demand, valve in % without and with full demand, mean stay in minutes)
MODES: dict[str, tuple[tuple[float, float], tuple[float, float], float]] = {
    "idle": ((1780.0, 1820.0), (24.0, 28.0), 45.0),
    "normal": ((2300.0, 2720.0), (52.0, 80.0), 110.0),
    "boost": ((2860.0, 3020.0), (84.0, 98.0), 35.0),
}

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What the maker's sheet and the mounting say about one pump."""

    name: str
    head: float  # H0: m at rated speed and no flow
    best_flow: float  # L/min at the best efficiency point, rated speed
    efficiency: float  # at that point
    vibration: float  # mm/s at that point
    static_head: float  # Hs: m
    heat: float  # K of bearing temperature for each kW


MACHINES = (
    Machine(name="P1", head=52.0, best_flow=600.0, efficiency=0.74, vibration=1.5, static_head=15.0, heat=3.6),
    Machine(name="P2", head=53.5, best_flow=590.0, efficiency=0.72, vibration=1.7, static_head=15.0, heat=3.9),
    Machine(name="P3", head=50.5, best_flow=615.0, efficiency=0.75, vibration=1.4, static_head=14.5, heat=3.4),
    Machine(name="P4", head=52.5, best_flow=605.0, efficiency=0.71, vibration=1.9, static_head=15.5, heat=4.1),
)


def wander(rng: np.random.Generator, minutes: int, hours: float) -> Array:
    """First-order autoregressive noise [minutes] of variance 1 that forgets within ``hours``."""
    keep = np.exp(-1.0 / (60.0 * hours))
    steps = rng.standard_normal(minutes)
    return follow(steps * np.sqrt(1 - keep**2) / (1 - keep), 60.0 * hours, steps[0])


def follow(target: Array, minutes: float, start: float) -> Array:
    """Return a first-order lag ``[n]`` of ``target`` with the time constant ``minutes``."""
    keep, now, out = np.exp(-1.0 / minutes), start, np.empty_like(target)
    for i, goal in enumerate(target):
        now = keep * now + (1 - keep) * goal
        out[i] = now
    return out


def mode_plan(rng: np.random.Generator, minutes: int) -> list[str]:
    """Operating mode [minutes]: stays of random length; boost and idle both lead back to normal."""
    plan: list[str] = []
    mode = "normal"
    while len(plan) < minutes:
        plan += [mode] * int(8 + rng.exponential(MODES[mode][2]))
        mode = "normal" if mode != "normal" else ("boost" if rng.random() < 0.55 else "idle")
    return plan[:minutes]


def fault_plan(rng: np.random.Generator, modes: list[str], faults: list[str], stay: int) -> tuple[list[str], Array]:
    """Fault [minutes] and its severity in 0.5…1.2: each fault once, in its own stretch of the time.

    A sensor gets stuck where the mode changes, because a constant mode would hide the fault; it recovers before the next change.
    """
    plan, severity = ["normal"] * len(modes), np.zeros(len(modes))
    room = len(modes) // max(len(faults), 1)
    changes = [i for i in range(1, len(modes)) if modes[i] != modes[i - 1]]
    for turn, fault in enumerate(faults):
        first = turn * room + int(rng.integers(5, max(6, room - stay - 5)))
        last = first + stay
        if fault == "stuck_sensor":
            first = min(changes, key=lambda i: abs(i - first))
            last = min([first + stay, *(i for i in changes if i > first)])
        plan[first:last] = [fault] * len(plan[first:last])
        severity[first:last] = rng.uniform(0.5, 1.2)
    return plan, severity


def operating_point(machine: Machine, speed: Array, pipe: Array, head_loss: Array, leak: Array) -> tuple[Array, Array]:
    """Head in m and flow through the meter in L/min, both [n], where pump, pipe and leak agree.

    Solved for the head by bisection: what the pump gives falls with the head, what pipe and leak take rises.
    """
    shut_off = machine.head * (speed / RATED_RPM) ** 2 * (1 - head_loss)
    bend = 0.23 * machine.head / machine.best_flow**2  # a: 23 % of the head is lost at the best point
    low, high = np.zeros_like(speed), shut_off.copy()
    for _ in range(60):
        head = (low + high) / 2
        given = np.sqrt(np.maximum(shut_off - head, 0) / bend)
        taken = np.sqrt(np.maximum(head - machine.static_head, 0) / pipe) + leak * np.sqrt(head)
        low, high = np.where(given > taken, head, low), np.where(given > taken, high, head)
    return head, np.sqrt(np.maximum(head - machine.static_head, 0) / pipe)


def commands(rng: np.random.Generator, modes: list[str], clock: Array) -> tuple[Array, Array]:
    """Speed in rpm and valve opening in %, both [n]: set by mode and demand, reached within minutes."""
    demand = np.clip(0.5 + 0.3 * np.sin(2 * np.pi * (clock / DAY - 0.3)) + 0.12 * wander(rng, len(clock), 1.0), 0, 1)
    speeds, valves = (np.array([MODES[mode][i] for mode in modes]) for i in (0, 1))
    speed = speeds[:, 0] + demand * (speeds[:, 1] - speeds[:, 0])
    valve = valves[:, 0] + demand * (valves[:, 1] - valves[:, 0]) + 1.5 * wander(rng, len(clock), 0.5)
    return follow(speed, 1.0, speed[0]), follow(valve, 1.0, valve[0])


def run_machine(rng: np.random.Generator, machine: Machine, clock: Array, faults: list[str], stay: int) -> dict[str, object]:
    """All columns [n] of one machine over ``clock`` (minutes since the station started)."""
    n = len(clock)
    modes = mode_plan(rng, n)
    plan, severity = fault_plan(rng, modes, faults, stay)
    during = {fault: severity * (np.array(plan) == fault) for fault in FAULTS}
    speed, valve = commands(rng, modes, clock)
    bypass = wander(rng, n, 0.4) > 1.7
    flutter = np.abs(rng.standard_normal(n))  # vapour bubbles collapse irregularly

    pipe = 3.4e-5 * np.where(bypass, 0.8, 1.0) / (valve / 100) ** 2  # k in m/(L/min)²
    head, flow = operating_point(machine, speed, pipe, during["cavitation"] * (0.06 + 0.06 * flutter), LEAK * during["leak"])
    through = flow + LEAK * during["leak"] * np.sqrt(head)
    load = through / (machine.best_flow * speed / RATED_RPM)  # 1 at the best efficiency point
    efficiency = machine.efficiency * np.maximum(2 * load - load**2, 0.12) * (1 - 0.12 * during["cavitation"])
    power = DENSITY * GRAVITY * through / L_MIN * head / (efficiency * MOTOR_EFFICIENCY) / 1000 + 0.25 * during["bearing_wear"]
    vibration = machine.vibration * (speed / RATED_RPM) ** 2 * (1 + 0.9 * (load - 1) ** 2)
    vibration *= 1 + during["cavitation"] * (0.45 + 0.25 * flutter) + 0.55 * during["bearing_wear"]

    ambient = 21.0 + 3.0 * np.sin(2 * np.pi * (clock / DAY - 0.4)) + 0.6 * wander(rng, n, 2.0)
    fluid = 14.0 + 1.6 * np.sin(2 * np.pi * (clock / DAY - 0.5)) + 0.4 * wander(rng, n, 3.0)
    warm = 0.7 * ambient + 0.3 * fluid + machine.heat * power + 11.0 * during["bearing_wear"]
    measured = {
        "speed_rpm": speed,
        "valve_percent": np.clip(valve, 0, 100),
        "flow_l_min": flow,
        "pressure_bar": DENSITY * GRAVITY * head / 1e5,
        "power_kw": power,
        "vibration_mm_s": vibration,
        "bearing_temperature_c": follow(warm, 18.0, warm[0]),
        "fluid_temperature_c": fluid,
    }
    said = [other_mode(mode) if fault == "wrong_mode" else mode for mode, fault in zip(modes, plan, strict=True)]
    cells = {name: read_sensor(rng, name, values) for name, values in measured.items()}
    cells["flow_l_min"] = hold(cells["flow_l_min"], plan)
    return {"mode": said, "filter_bypass": bypass, **cells, "fault": plan}


def other_mode(mode: str) -> str:
    """Say what the control system wrongly reports."""
    return {"idle": "normal", "normal": "boost", "boost": "normal"}[mode]


def read_sensor(rng: np.random.Generator, name: str, values: Array) -> Array:
    """Add the sensor's noise and show its decimals."""
    constant, relative, decimals = SENSORS[name]
    spread = np.hypot(constant, relative * values)
    noisy: Array = np.round(values + spread * rng.standard_normal(len(values)), decimals)
    return noisy


def hold(values: Array, plan: list[str]) -> Array:
    """Freeze the reading from before the mode changed for as long as the sensor is stuck."""
    held = values.copy()
    for i in range(1, len(plan)):
        if plan[i] == "stuck_sensor":
            held[i] = held[i - 1]
    return held


def lose_cells(rng: np.random.Generator, name: str, column: pa.Array) -> pa.Array:
    """Blank one cell in a hundred of what is measured; keys and labels stay whole."""
    lost = rng.random(len(column)) < MISSING
    if name not in {*SENSORS, "mode", "filter_bypass"}:
        return column
    return pa.compute.if_else(pa.array(lost), pa.scalar(None, column.type), column)


def station(seed: int, first_day: int, minutes: int, faults: Callable[[int], list[str]], stay: int) -> pa.Table:
    """All machines over the same minutes, in order of time, then machine; ``faults(i)`` are those of machine ``i``."""
    rng = np.random.default_rng([SEED, seed])
    clock = np.arange(minutes, dtype=np.float64) + first_day * DAY
    runs = [run_machine(rng, machine, clock, faults(i), stay) for i, machine in enumerate(MACHINES)]
    start = np.datetime64("2025-03-03T00:00", "s")
    columns = {"timestamp": pa.array(np.repeat(start + clock.astype("timedelta64[m]"), len(runs)))}
    columns["machine_id"] = pa.array([machine.name for machine in MACHINES] * minutes)
    for name in runs[0]:
        woven = np.stack([np.asarray(run[name]) for run in runs], axis=1).reshape(-1)
        columns[name] = lose_cells(rng, name, pa.array(woven))
    return pa.table(columns)


def with_comments(table: pa.Table) -> pa.Table:
    """Add a column that no model knows: what the shift wrote down, mostly nothing."""
    notes = ["" for _ in range(len(table))]
    notes[0], notes[401], notes[1202] = "shift change", "P2 greased, see sheet 14", "noise at P3?"
    return table.append_column("comment", pa.array(notes))


def write(folder: Path) -> None:
    """Write the three files; the options are fixed, so that the same pyarrow writes the same bytes."""
    names = list(FAULTS)
    normal = station(1, 0, 5000, lambda _: [], 0)
    new = station(2, 5, 500, lambda i: [names[i], names[(i + 4) % 5]] if i in {0, 1, 2} else [], 12)
    labelled = station(3, 7, 1250, lambda i: [*names[i:], *names[:i]], 28)
    options = {"compression": "zstd", "compression_level": 9, "version": "2.6", "data_page_version": "1.0", "store_schema": False}
    pq.write_table(normal.drop_columns("fault"), folder / "normal.parquet", **options)
    pq.write_table(labelled, folder / "labelled.parquet", **options)
    pa.csv.write_csv(with_comments(new.drop_columns("fault")), folder / "new.csv", pa.csv.WriteOptions(quoting_style="needed"))


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
