"""The figures that the verdict's checks are named after, as far as totals alone know them."""

from llmload.measure.totals import RunTotals


def health(totals: RunTotals) -> dict[str, float | None]:
    """Return the figures of the checks that totals alone can answer; None where nothing is known."""
    answers = sum(totals.token_sources.values())
    return {
        "error_share": _share(totals.failed, totals.ended),
        "censored_share": _share(totals.censored, totals.ended),
        "coalesced_share": _share(totals.coalesced_chunks, totals.chunks),
        "user_stamp_share": _share(totals.stamp_sources["user"], answers),
        "event_loop_lag_p99_s": totals.distributions["event_loop_lag_s"].quantile(0.99),
        "schedule_lag_p99_s": totals.distributions["schedule_lag_s"].quantile(0.99),
        "dropped_share": _share(totals.dropped, totals.dropped + totals.started),
        "uncounted_share": _share(totals.uncounted_answers, answers),
        "chunk_counted_share": _share(totals.token_sources["chunks"], answers),
        "contradicted_share": _share(totals.contradicted_answers, answers),
        "reused_prompt_share": _share(totals.reused_prompts, totals.started),
        "cached_token_share": totals.cached_token_share,
    }


def _share(part: float, of: int) -> float | None:
    return part / of if of else None
