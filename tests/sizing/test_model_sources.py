"""Where a model comes from, and which are refused."""

import json
import re
from pathlib import Path

import pytest

from llmload.errors import ConfigError
from llmload.sizing.architecture import Attention, ModelSpec
from llmload.sizing.catalogue import catalogue, load_model
from llmload.sizing.families import model_from_config
from llmload.sizing.hf_config import HfConfig
from llmload.sizing.parameters import count_parameters

LLAMA = dict(catalogue()["llama-2-7b"]["config"])


def config_file(folder: Path, config: object) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps(config))
    return path


def attention(model: ModelSpec) -> list[Attention]:
    """The attention of each layer of a model that has no other mixer."""
    mixers = [layer.mixer for layer in model.decoder if isinstance(layer.mixer, Attention)]
    assert len(mixers) == len(model.decoder)
    return mixers


def test_a_name_an_hf_id_a_config_file_and_its_directory_give_the_same_model(tmp_path: Path) -> None:
    path = config_file(tmp_path, LLAMA)

    totals = {
        count_parameters(load_model(source)).total
        for source in ("llama-2-7b", "LLAMA-2-7B", "meta-llama/Llama-2-7b-chat-hf", str(path), str(tmp_path))
    }
    assert totals == {6_738_415_616}


@pytest.mark.parametrize(
    ("here", "given", "said"),
    [
        (["model-00001-of-00002.safetensors"], "", "is one of 2 files, of which 1 are here: get the others"),
        (["model-00001-of-00002.safetensors", "extra.safetensors"], "", "of which 1 are here"),
        (["model-00002-of-00002.safetensors"], "model-00002-of-00002.safetensors", "give their folder"),
        (["q4-00001-of-00003.gguf"], "q4-00001-of-00003.gguf", "join them with llama-gguf-split --merge"),
    ],
)
def test_one_file_of_several_is_not_taken_for_the_whole(here: list[str], given: str, said: str, tmp_path: Path) -> None:
    config_file(tmp_path, LLAMA)
    for name in here:
        (tmp_path / name).write_bytes((2).to_bytes(8, "little") + b"{}")

    with pytest.raises(ConfigError, match=said):
        load_model(str(tmp_path / given))


def test_an_unknown_name_is_refused_with_the_nearest_ones() -> None:
    with pytest.raises(ConfigError, match=r"'qwen3-31b' is neither in the catalogue.*near it: .*Qwen3-32B"):
        load_model("qwen3-31b")


def test_an_unknown_architecture_is_refused_and_the_known_ones_are_named(tmp_path: Path) -> None:
    path = config_file(tmp_path, LLAMA | {"model_type": "retnet"})

    with pytest.raises(ConfigError, match=r"config\.json: model_type = 'retnet' is not.*known: .*llama"):
        load_model(str(path))


@pytest.mark.parametrize("key", ["vocab_size", "hidden_size", "num_hidden_layers", "intermediate_size"])
def test_a_size_that_is_missing_is_named_and_not_guessed(key: str, tmp_path: Path) -> None:
    path = config_file(tmp_path, {k: v for k, v in LLAMA.items() if k != key})

    with pytest.raises(ConfigError, match=rf"config\.json: {key} is missing"):
        load_model(str(path))


@pytest.mark.parametrize("value", [0, -1, "32", 1.5, True])
def test_a_size_that_is_not_a_positive_whole_number_is_refused_with_its_value(value: object) -> None:
    with pytest.raises(ConfigError, match=r"here: num_hidden_layers = .* is not a positive whole number"):
        model_from_config(HfConfig(LLAMA | {"num_hidden_layers": value}, "here"), "m")


def test_a_file_that_is_not_json_and_a_directory_without_config_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"config\.json: cannot be read: No such file"):
        load_model(str(tmp_path))
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ConfigError, match=r"config\.json: is not JSON"):
        load_model(str(tmp_path))


def test_a_file_with_a_list_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is a JSON list"):
        load_model(str(config_file(tmp_path, [])))


def test_a_config_without_a_model_type_is_refused() -> None:
    with pytest.raises(ConfigError, match="here: model_type is missing"):
        model_from_config(HfConfig({}, "here"), "m")


def test_a_multimodal_config_gives_its_language_model_and_names_what_is_left_out() -> None:
    inner = dict(catalogue()["gemma-3-4b-it"]["config"])
    outer = {"model_type": "gemma3", "text_config": inner, "vision_config": {"hidden_size": 1152}}

    model = model_from_config(HfConfig(outer, "here"), "m")

    assert model.uncounted == ("vision_config",)
    assert count_parameters(model).total == 3_880_263_168


def test_gemma_3_configs_that_leave_out_their_defaults_are_completed() -> None:
    """The published config of the 4b model leaves out heads, head_dim and vocabulary."""
    inner = {
        "model_type": "gemma3_text",
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "num_hidden_layers": 34,
        "sliding_window": 1024,
    }
    model = model_from_config(HfConfig({"model_type": "gemma3", "text_config": inner}, "here"), "m")

    assert count_parameters(model).total == 3_880_263_168


def test_a_stated_head_dim_wins_over_hidden_size_by_heads() -> None:
    model = load_model("Mistral-Nemo-Instruct-2407")

    assert model.hidden_size == 5120
    assert {mixer.head_dim for mixer in attention(model)} == {128}


def test_falcon_with_multi_query_has_one_key_head() -> None:
    assert {mixer.kv_heads for mixer in attention(load_model("falcon-7b-instruct"))} == {1}


def test_a_window_that_qwen_states_but_switches_off_is_ignored() -> None:
    stated = dict(catalogue()["qwen2.5-7b-instruct"]["config"]) | {"sliding_window": 131072, "max_window_layers": 28}

    off = model_from_config(HfConfig(stated | {"use_sliding_window": False}, "here"), "m")
    on = model_from_config(HfConfig(stated | {"use_sliding_window": True, "max_window_layers": 20}, "here"), "m")

    windows = [mixer.window_tokens for mixer in attention(on)]
    assert {mixer.window_tokens for mixer in attention(off)} == {None}
    assert windows == [None] * 20 + [131072] * 8


def test_gemma_2_alternates_and_gemma_3_has_one_full_layer_in_six_without_layer_types() -> None:
    for name, period in (("gemma-2-2b-it", 2), ("gemma-3-12b-it", 6)):
        config = {k: v for k, v in catalogue()[name]["config"].items() if k != "layer_types"}

        bare = model_from_config(HfConfig(config, "here"), "m")

        full = [i for i, mixer in enumerate(attention(bare)) if mixer.window_tokens is None]
        assert full == list(range(period - 1, len(bare.decoder), period))
        assert bare.decoder == load_model(name).decoder


def test_layer_types_of_an_unknown_kind_are_refused() -> None:
    config = LLAMA | {"layer_types": ["chunked_attention"] * 32}

    with pytest.raises(ConfigError, match="layer_types holds 'chunked_attention'"):
        model_from_config(HfConfig(config, "here"), "m")


def test_a_declared_quantisation_is_kept() -> None:
    config = LLAMA | {"quantization_config": {"quant_method": "awq", "bits": 4}}

    assert model_from_config(HfConfig(config, "here"), "m").quantisation == "awq"


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("num_hidden_layers", 2**63, "num_hidden_layers has 19 digits; no model has more than 10,000"),
        ("num_hidden_layers", 10_001, "no model has more than 10,000"),
        ("vocab_size", 10**400, "vocab_size "),
        ("vocab_size", "x" * 300_000, "is not a positive whole number"),
        ("layer_types", ["x" * 300_000] * 32, "layer_types holds 'xxx"),
        ("model_type", "\x1b[31m" * 10_000, "model_type = '\\x1b[31m"),
        ("tie_word_embeddings", [[[]]], "is neither true nor false"),
    ],
)
def test_what_no_model_has_is_refused_in_a_short_line(key: str, value: object, says: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=re.escape(says)) as refused:
        load_model(str(config_file(tmp_path, LLAMA | {key: value})))

    said = str(refused.value)
    assert len(said) < 1_000
    assert said.isprintable()


def test_a_config_that_is_nested_without_end_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("[" * 100_000)

    with pytest.raises(ConfigError, match="is not JSON"):
        load_model(str(tmp_path / "config.json"))


def test_dense_layers_before_experts_are_a_whole_number(tmp_path: Path) -> None:
    deepseek = next(entry["config"] for entry in catalogue().values() if "first_k_dense_replace" in entry["config"])

    with pytest.raises(ConfigError, match="first_k_dense_replace = '1' is not a positive whole number"):
        load_model(str(config_file(tmp_path, {**deepseek, "first_k_dense_replace": "1"})))
