"""`[[mix]]`: several kinds of requests in one scenario, each with its name, weight and parameters."""

from collections import Counter
from pathlib import Path

import orjson
import pytest

from llmload.client.api import ChatApi
from llmload.client.settings import ClientSettings
from llmload.errors import ConfigError, DataError
from llmload.loadgen.options import refuse_changes
from llmload.prompts.workload import MixedIn, PromptPlan, load
from llmload.scenario import Scenario, load_scenario
from llmload.scenario.reading import find_scenario

MIX = """
[[mix]]
name = "short"
weight = 3
request = { max_tokens = 3 }
[[mix]]
name = "long"
request = { max_tokens = 6, stop = ["x"] }
"""


def scenario(tmp_path: Path, mix: str) -> Scenario:
    file = tmp_path / "s.toml"
    file.write_text(find_scenario("demo").read_text() + mix)
    return load_scenario(file)


def test_entries_have_fields_in_place_of_the_requests(tmp_path: Path) -> None:
    short, long = scenario(tmp_path, MIX).mix

    assert (short.name, short.weight, short.fields) == ("short", 3.0, {"max_tokens": 3})
    assert (long.weight, long.fields) == (1.0, {"max_tokens": 6, "stop": ["x"]})


@pytest.mark.parametrize(
    ("mix", "says"),
    [
        ("[[mix]]\nweight = 1", "mix.0.name: is missing"),
        ("[[mix]]\nname = 'a'\nweigth = 1", "mix.0.weigth: unknown key (value 1); did you mean weight?"),
        ("[[mix]]\nname = 'a'\nweight = 0", "mix.0.weight: input should be greater than 0"),
        ('[[mix]]\nname = "a\\tb"', "mix.0.name: "),
        ("[[mix]]\nname = 'a '", "mix.0.name: must be on one line"),
        ("[[mix]]\nname = 'a'\n[[mix]]\nname = 'a'", "mix has two entries named 'a'"),
        ("[[mix]]\nname = 'a'\nrequest = { stream = false }", "mix.0.request: stream belongs to [request]"),
        ("[[mix]]\nname = 'a'\nrequest = { max_tokens = 0 }", "mix.0.request: max_tokens: input should be greater"),
        ("[[mix]]\nname = 'a'\nrequest = { max_token = 3 }", "mix.0.request: max_token: extra inputs"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, mix: str, says: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        scenario(tmp_path, f"\n{mix}\n")

    assert says.lower() in str(refusal.value).lower()


def test_prompts_are_drawn_by_weight_the_same_on_every_worker() -> None:
    plan = PromptPlan(mix=(MixedIn("short", 3.0, {"max_tokens": 3}), MixedIn("long", 1.0)))
    drawn = load(plan, Path.cwd())
    names = Counter(conversation.prompts[0].name for conversation in drawn.conversations)

    assert 2 < names["short"] / names["long"] < 4.5
    assert drawn.conversations == load(plan, Path.cwd()).conversations


def test_an_entry_that_no_prompt_became_is_refused() -> None:
    plan = PromptPlan(count=5, mix=(MixedIn("often", 1.0), MixedIn("rare", 0.001)))

    with pytest.raises(DataError, match=r"none of 5 prompts became 'rare': set a greater prompts\.count"):
        load(plan, Path.cwd())


def test_a_prompts_own_fields_are_sent(tmp_path: Path) -> None:
    short = scenario(tmp_path, MIX).mix[0]
    api = ChatApi(ClientSettings(base_urls=("http://e",), model="m", body={"max_tokens": 64, "top_p": 0.5}))
    prompt = load(PromptPlan(mix=(MixedIn("a", 1.0, short.fields),)), Path.cwd()).conversations[0].prompts[0]

    sent = orjson.loads(api.encode(prompt))
    salted = orjson.loads(api.encode(prompt.salted("salt")))
    assert (sent["max_tokens"], sent["top_p"]) == (3, 0.5) == (salted["max_tokens"], salted["top_p"])


def test_a_mix_is_not_edited_during_a_run(tmp_path: Path) -> None:
    running = scenario(tmp_path, MIX)

    refuse_changes(running, running)
    with pytest.raises(ConfigError, match=r"mix\.entries: cannot become"):
        refuse_changes(running, scenario(tmp_path, ""))
