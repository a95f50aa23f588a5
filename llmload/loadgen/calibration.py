"""What is learned of an engine before a load whose prompts or answers have lengths: how it counts, what it takes."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any, Final

from llmload.client.counting import PromptCounter
from llmload.client.settings import ClientSettings, EngineInfo
from llmload.errors import EngineError
from llmload.prompts.conversation import Prompt
from llmload.prompts.lengths import Asked
from llmload.prompts.synthetic import TextCalibration, calibrate
from llmload.prompts.workload import Calibration, PromptPlan, answer_limit, load
from llmload.scenario import Scenario

NO_EXACT_OUTPUT: Final = frozenset({"transformers", "tgi"})
"""Engines that have no field which keeps an answer from ending, and refuse or ignore one."""
_MEASURED_SENTENCES: Final = 512
_MEASURED_BY_USAGE: Final = 192
"""Each is a request."""
_CHECKED: Final = 6
"""Prompts that are counted beforehand as a check."""

logger = logging.getLogger(__name__)


def asks_lengths(plan: PromptPlan) -> bool:
    """Return whether an engine has to be asked before a load of this plan."""
    return plan.is_synthetic or plan.asks_outputs


def learn(scenario: Scenario, settings: ClientSettings, engine: EngineInfo | None, base_dir: Path) -> Calibration:
    """
    Return what an engine counts and takes, for a scenario that asks for lengths; no text of the load is sent.

    EngineError where it does not say, or where a prompt with its answer is longer than it takes.
    """
    plan = scenario.prompt_plan()
    counter = PromptCounter(settings)
    try:
        text = _text(counter) if plan.is_synthetic else None
        calibration = Calibration(text=text, counted_by=counter.counted_by)
        conversations = load(plan, base_dir, calibration).conversations
        prompts = [prompt for conversation in conversations for prompt in conversation.prompts]
        _check_room(prompts, scenario, engine)
        asked = [prompt.asked for prompt in prompts]
        if text is not None and not all(_differences(text, asked, plan, counter)):
            calibration = replace(calibration, text=_of_words(text, asked, plan, counter))
        calibration = replace(calibration, output_fields=_output_fields(scenario, plan, counter))
    finally:
        counter.close()
    return calibration


def _text(counter: PromptCounter) -> TextCalibration:
    counter.use_tokenize()
    by_usage = counter.counted_by == "usage"
    return calibrate(counter.count, measured=_MEASURED_BY_USAGE if by_usage else _MEASURED_SENTENCES)


def _output_fields(scenario: Scenario, plan: PromptPlan, counter: PromptCounter) -> tuple[str, ...]:
    """Return the fields with which the engine ends no answer early; none where it has none, which a warning says."""
    exact = scenario.prompts.exact_output
    if not plan.asks_outputs or exact is False:
        return ()
    if isinstance(exact, list):
        return tuple(exact)
    fields = () if scenario.engine.name in NO_EXACT_OUTPUT else counter.output_fields()
    if not fields:
        logger.warning(
            "%s takes neither ignore_eos nor min_tokens, so answers end where the model ends them, some before "
            "prompts.output_tokens: --set prompts.exact_output=false makes that their limit alone",
            scenario.engine.display_name,
        )
    return fields


def _check_room(prompts: Sequence[Prompt], scenario: Scenario, engine: EngineInfo | None) -> None:
    """Raise EngineError where a prompt with its answer, or with the most that this may have, is beyond the context."""
    limit = None if engine is None else engine.max_model_len
    if limit is None:
        return
    body = scenario.request.body()
    sizes = [(each.asked.input_tokens or 0, _most_tokens({**body, **each.fields})) for each in prompts]
    too_long = [each for each in sizes if sum(each) > limit]
    if too_long:
        longest, answer = max(too_long, key=sum)
        fewer = "output_tokens" if scenario.prompt_plan().asks_outputs else "request.max_tokens"
        raise EngineError(
            f"{len(too_long):,} of {len(sizes):,} prompts with their answers are longer than the engine's context of "
            f"{limit:,} tokens, the longest {longest:,} + {answer:,}: ask for fewer in prompts.input_tokens or {fewer} "
            "(max, in a distribution), or start the engine with more"
        )


def _most_tokens(fields: Mapping[str, Any]) -> int:
    """Return the most tokens that an answer to these fields may have, one at least."""
    found = answer_limit(fields)
    return found if type(found) is int else 1


def _differences(text: TextCalibration, asked: list[Asked], plan: PromptPlan, counter: PromptCounter) -> Iterator[bool]:
    """Yield whether the engine counts some prompts as asked, the longest and the shortest first; none of the load's."""
    random = Random("check")  # noqa: S311 - repeatable, not secret
    lengths = sorted({each.input_tokens or 0 for each in asked})
    some = dict.fromkeys([lengths[-1], lengths[0], *islice(random.sample(lengths, len(lengths)), _CHECKED)])
    for tokens in [*some, *lengths[:1] * (_CHECKED - len(some))]:
        message = text.text(tokens, random, salted=plan.salted)
        if plan.salted:
            message = f"{text.salt(random.getrandbits(64))}\n{message}"
        yield counter.count(message) == tokens


def _of_words(text: TextCalibration, asked: list[Asked], plan: PromptPlan, counter: PromptCounter) -> TextCalibration:
    """Return what makes prompts of words alone, since sentences did not add up; warn where these do not either."""
    words = replace(text, sentence_tokens=())
    if not all(_differences(words, asked, plan, counter)):
        logger.warning(
            "the engine does not count some prompts as their parts add up: prompts.input_tokens may be missed, and the "
            "verdict says by how much"
        )
    return words
