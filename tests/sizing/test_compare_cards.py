"""A card's memory as a picture, and cards side by side."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from llmload.cli.vram import vram
from llmload.errors import ConfigError
from llmload.report.html.memory import memory_page
from llmload.sizing.cards import find_gpu
from llmload.sizing.catalogue import load_model
from llmload.sizing.compare_cards import CardRow, compare_cards, compare_json, compare_text
from llmload.sizing.fit import DeploymentRequest, Fit, fit, plan_deployment
from llmload.sizing.picture import SIGNS, MemoryPart, bar, memory_parts, memory_picture

QWEN = DeploymentRequest(model=load_model("Qwen3-32B"), gpu=find_gpu("H100-SXM5"), context_tokens=16_000, users=8)
CARDS = [find_gpu(name) for name in ("L40S", "H100-SXM5", "MI300X", "Gaudi3")]


def fitted(gpu: str, engine: str = "vllm") -> Fit:
    return fit(plan_deployment(replace(QWEN, gpu=find_gpu(gpu), engine=engine, users=None)))


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_the_parts_of_a_card_add_up_to_its_memory(engine: str) -> None:
    parts = memory_parts(fitted("H200", engine))

    assert sum(part.gib for part in parts) == pytest.approx(139.7)
    assert {part.key for part in parts} <= SIGNS.keys()
    assert (parts[0].key, parts[-1].key) == ("weights", "free")


def test_a_bar_has_each_part_by_its_share_and_at_least_one_sign() -> None:
    parts = [
        MemoryPart(key="weights", name="weights", gib=50),
        MemoryPart(key="graphs", name="CUDA graphs", gib=0.01),
        MemoryPart(key="kv_cache", name="KV cache", gib=49.99),
    ]

    assert bar(parts, width=20) == "█" * 10 + "▚" + "░" * 9


def test_cards_are_compared_with_what_tokens_in_flight_take() -> None:
    model = load_model("DeepSeek-V4-Flash")
    rows = compare_cards(replace(QWEN, model=model, context_tokens=131072, users=2), [find_gpu("B200")])
    lines = compare_text(rows).splitlines()

    assert any("is for tokens in flight: lower --max-num-batched-tokens" in line for line in lines)
    assert max(map(len, lines)) <= 80


def test_where_the_model_does_not_fit_the_picture_says_where_the_card_ends() -> None:
    lines = memory_picture(fitted("A10G"))

    assert lines[1].endswith("^ the card ends here: 22.06")
    assert lines[1].index("^") == 2 + round(76 * 22.06 / sum(part.gib for part in memory_parts(fitted("A10G")))) - 1
    assert all(len(line) <= 80 for line in lines)


def rows() -> list[CardRow]:
    return compare_cards(QWEN, CARDS, prices={"H100-SXM5-80GB": 2.0})


def test_each_card_has_the_fewest_gpus_on_which_the_load_fits_and_its_price_a_month() -> None:
    found = {row.found.deployment.gpu.name: row for row in rows()}
    h100 = found["H100-SXM5-80GB"]

    assert {name: row.gpus for name, row in found.items()} == {
        "L40S-48GB": 4, "H100-SXM5-80GB": 2, "MI300X-192GB": 1, "Gaudi3-128GB": 2,
    }  # fmt: skip
    assert all(row.found.verdict == "fits" for row in found.values())
    assert h100.price_a_month == 2 * 2.0 * 730
    assert h100.price_a_request == h100.price_a_month / h100.found.requests_at_once[1]
    assert found["L40S-48GB"].price_a_month is None
    assert [row.gpus for row in compare_cards(QWEN, CARDS, count=8)] == [8] * 4


def test_text_and_json_say_the_same_of_the_cards() -> None:
    text, values = compare_text(rows()), json.loads(json.dumps(compare_json(rows())))
    card = values["cards"][1]

    assert list(values) == ["model", "precision", "kv_dtype", "context_tokens", "users", "cards"]
    assert list(card) == [
        "gpu", "gpus", "tensor_parallel", "pipeline_parallel", "verdict", "gpu_memory_gib", "gpu_memory_is_measured",
        "weights_gib", "kv_pool_gib", "pool_tokens", "requests_at_once", "bound_tokens_per_s", "price_a_month",
        "price_a_month_of_a_request",
    ]  # fmt: skip
    line = next(line for line in text.splitlines() if line.startswith("2 x H100"))
    assert line.split()[3:] == [
        "fits", str(card["requests_at_once"]["low"]), str(card["requests_at_once"]["best"]),
        f"{card['bound_tokens_per_s']:.1f}", "2,920",
    ]  # fmt: skip
    assert all(len(line) <= 80 for line in text.splitlines())


def test_a_wrong_price_is_refused() -> None:
    with pytest.raises(ConfigError, match="a price is given for L4-24GB, which --gpus does not name"):
        compare_cards(QWEN, CARDS, prices={"L4": 0.7})
    for price in ("L4=cheap", "L4=-1", "L4=nan", "L4"):
        refused = CliRunner().invoke(vram, ["compare", "Qwen3-8B", "--gpus", "L4", "--price", price])
        assert (refused.exit_code, f"'{price}' is not CARD=PRICE" in refused.stderr) == (2, True)


def test_the_page_has_a_bar_and_a_verdict_for_each_card_and_loads_nothing(tmp_path: Path) -> None:
    page = memory_page([row.found for row in rows()], rows())

    assert page.count('<div class="bar"') == len(CARDS)
    assert page.count('class="kv_cache" style=') == len(CARDS)
    assert "2,920" in page
    assert "<script" not in page
    assert "://" not in page
    assert "@media (prefers-color-scheme: dark) { :root {" in page
    too_small = memory_page([fitted("A10G")])
    assert '<i style="left:' in too_small
    assert "the card ends at <b>22.06</b> GiB" in too_small
    assert "Would make it fit: " in too_small
    out = tmp_path / "memory.html"
    done = CliRunner().invoke(vram, ["fit", "Qwen3-8B", "--gpu", "L4", "--context", "8000", "--html", str(out)])
    assert done.exit_code == 0
    assert "Qwen3-8B in memory" in out.read_text(encoding="utf-8")
