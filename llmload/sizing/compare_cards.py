"""One model on several cards side by side: how many of each it takes, what they hold, how fast, at what price."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from llmload.errors import ConfigError
from llmload.sizing.cards import Gpu, find_gpu
from llmload.sizing.fit import DeploymentRequest, Fit, fit, plan_deployment
from llmload.sizing.picture import memory_picture
from llmload.sizing.speed import decode_bound_tokens_per_s
from llmload.sizing.text import fit_terms, in_flight_notes
from llmload.units import GIB

HOURS_A_MONTH = 730  # 365 days / 12
_COUNTS = (1, 2, 4, 8, 16, 32)


@dataclass(frozen=True, slots=True, kw_only=True)
class CardRow:
    """One card: the fewest GPUs on which the load fits, or the number that is wanted; None is unknown."""

    found: Fit
    bound_tokens_per_s: float | None  # one sequence, without context
    price_a_month: float | None

    @property
    def gpus(self) -> int:
        """GPUs, over all copies."""
        return self.found.deployment.parallelism.gpus * self.found.deployment.copies

    @property
    def price_a_request(self) -> float | None:
        """Price a month of each request that fits at once; None without a price or a request."""
        held = self.found.requests_at_once[1]
        return None if self.price_a_month is None or not held else self.price_a_month / held


def compare_cards(
    request: DeploymentRequest,
    cards: Sequence[Gpu],
    count: int | None = None,
    prices: Mapping[str, float] | None = None,
) -> list[CardRow]:
    """
    Return a row for each card in place of the request's; prices are of one GPU for an hour, by any name of its card.

    Without a count: the fewest GPUs of 1, 2, 4 to 32 on which the load fits, else the most. Raises ConfigError for a
    price of a card that is not compared, and what `plan_deployment` refuses.
    """
    by_card = {find_gpu(name).name: price for name, price in (prices or {}).items()}
    if others := by_card.keys() - {card.name for card in cards}:
        raise ConfigError(f"a price is given for {', '.join(sorted(others))}, which --gpus does not name")
    return [_row(_fewest(replace(request, gpu=card), count), by_card.get(card.name)) for card in cards]


def _row(found: Fit, price_an_hour: float | None) -> CardRow:
    gpus = found.deployment.parallelism.gpus * found.deployment.copies
    return CardRow(
        found=found,
        bound_tokens_per_s=_bound(found),
        price_a_month=None if price_an_hour is None else price_an_hour * HOURS_A_MONTH * gpus,
    )


def _fewest(request: DeploymentRequest, count: int | None) -> Fit:
    if count is not None:
        return fit(plan_deployment(replace(request, count=count)))
    found = fit(plan_deployment(replace(request, count=_COUNTS[0])))
    for more in _COUNTS[1:]:
        if found.verdict == "fits":
            break
        found = fit(plan_deployment(replace(request, count=more)))
    return found


def _bound(found: Fit) -> float | None:
    plan = found.deployment
    if plan.gpu.bandwidth_gb_per_s is None:
        return None
    return decode_bound_tokens_per_s(
        plan.model, plan.gpu, gpus=plan.parallelism.gpus, weight_format=plan.weight_format, kv_dtype=plan.kv_dtype
    )


def compare_json(rows: Sequence[CardRow]) -> dict[str, object]:
    """Return the rows for programs, units in the keys; null is unknown."""
    plan = rows[0].found.deployment
    cards = [
        {
            "gpu": row.found.deployment.gpu.name,
            "gpus": row.gpus,
            "tensor_parallel": row.found.deployment.parallelism.tensor,
            "pipeline_parallel": row.found.deployment.parallelism.pipeline,
            "verdict": row.found.verdict,
            "gpu_memory_gib": round(row.found.deployment.gpu.usable_gib, 2),
            "gpu_memory_is_measured": row.found.deployment.gpu.total_gib is not None,
            "weights_gib": round(row.found.tightest.weights_bytes.best / GIB, 3),
            "kv_pool_gib": round(row.found.tightest.pool_bytes.best / GIB, 3),
            "pool_tokens": row.found.pool_tokens.rounded(0),
            "requests_at_once": dict(zip(("low", "best", "high"), row.found.requests_at_once, strict=True)),
            "bound_tokens_per_s": row.bound_tokens_per_s,
            "price_a_month": row.price_a_month,
            "price_a_month_of_a_request": row.price_a_request,
        }
        for row in rows
    ]
    return {
        "model": plan.model.name,
        "precision": plan.weight_format,
        "kv_dtype": plan.kv_dtype,
        "context_tokens": plan.context_tokens,
        "users": plan.users,
        "cards": cards,
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class CardTable:
    """The rows as cells for people; n/a is unknown."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def compare_cells(rows: Sequence[CardRow]) -> CardTable:
    """Return the table for people: requests at once by the low and the best estimate."""
    return CardTable(
        header=("GPUs", "verdict", "requests: low", "best", "tokens/s up to", "a month"),
        rows=tuple(
            (
                f"{row.gpus} x {row.found.deployment.gpu.name}",
                row.found.verdict,
                *(f"{count:,}" for count in row.found.requests_at_once[:2]),
                "n/a" if row.bound_tokens_per_s is None else f"{row.bound_tokens_per_s:,.1f}",
                "n/a" if row.price_a_month is None else f"{row.price_a_month:,.0f}",
            )
            for row in rows
        ),
    )


def compare_text(rows: Sequence[CardRow]) -> str:
    """Return the rows for people: a table, and below it each card's memory, at most 80 columns wide."""
    table = compare_cells(rows)
    lines = [f"{rows[0].found.deployment.model.name}: {', '.join(fit_terms(rows[0].found))}", ""]
    width = max(len(row[0]) for row in table.rows) + 2
    for name, verdict, low, best, bound, price in (table.header, *table.rows):
        lines.append(f"{name:<{width}}{verdict:<12}{low:>13}{best:>6}{bound:>16}{price:>10}")
    for row in rows:
        plan = row.found.deployment
        lines += ["", f"{row.gpus} x {plan.gpu.name}, {plan.parallelism.text}: GiB on each", *memory_picture(row.found)]
        lines += [f"Note: {note}" for note in in_flight_notes(row.found)]
    return "\n".join(lines)
