"""How results are shown: one line per measure, with its floor and the ratio of the two."""

from dataclasses import asdict, dataclass, field


@dataclass
class Row:
    """`rate` and `floor` have the unit of `unit`; both were measured in the same run."""

    name: str
    rate: float
    floor: float | None
    unit: str
    note: str = ""
    floor_name: str = "floor"
    details: dict = field(default_factory=dict)

    @property
    def ratio(self) -> float | None:
        return round(self.rate / self.floor, 2) if self.floor else None


def as_json(rows: list[Row], machine: dict) -> dict:
    return {"machine": machine, "rows": [{**asdict(row), "ratio": row.ratio} for row in rows]}


def table(rows: list[Row], machine: dict) -> str:
    lines = [", ".join(f"{name} {value}" for name, value in machine.items()), ""]
    head = ["measure", "rate", "measured against", "ratio", "notes"]
    body = [[row.name, _figure(row.rate, row.unit), _floor(row), _ratio(row), row.note] for row in rows]
    widths = [max(len(line[column]) for line in [head, *body]) for column in range(len(head))]
    padded = ([cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in [head, *body])
    lines.extend("  ".join(line).rstrip() for line in padded)
    return "\n".join(lines)


def _figure(value: float, unit: str) -> str:
    return f"{value:,.1f} {unit}" if value < 100 else f"{value:,.0f} {unit}"


def _floor(row: Row) -> str:
    return "-" if row.floor is None else f"{_figure(row.floor, row.unit)} ({row.floor_name})"


def _ratio(row: Row) -> str:
    return "-" if row.ratio is None else f"{row.ratio:.2f}"
