"""`llmload vram`: how much GPU memory a model needs, from its config alone."""

import json

import click


@click.group()
def vram() -> None:
    """
    Size a model's GPU memory from its config: no network, no GPU, no model download.

    MODEL is a name from the catalogue (llama-2-70b, Qwen3-30B-A3B), a Hugging Face id in it
    (meta-llama/Llama-3.1-8B-Instruct), the path of a config.json, or a directory that holds one.
    """


@vram.command()
@click.argument("models", nargs=-1, metavar="[MODEL]...")
@click.option(
    "--rule",
    type=click.Choice(["seed"]),
    default="seed",
    show_default=True,
    expose_value=False,
    help="How memory is computed.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON with unrounded inputs instead of Markdown.")
def table(models: tuple[str, ...], as_json: bool) -> None:
    """
    Print the sizing table: without MODEL, the eleven models of the seed document.

    The seed rule is 1.2 x the weights: 1.2 x bytes x (P + R) / 2^30, where P are the parameters without the language
    model head and R the rotary caches of Transformers 4.31. Its "GB" is GiB. It knows no KV cache and no engine.

    \b
    Examples:
      llmload vram table --rule seed
      llmload vram table --rule seed Llama-3.1-8B-Instruct Qwen3-32B
      llmload vram table --rule seed --json llama-2-70b
    """
    from llmload.vram.catalogue import load_model
    from llmload.vram.tables import seed_json, seed_markdown, seed_row, seed_rows

    rows = [seed_row(load_model(name)) for name in models] if models else seed_rows()
    click.echo(json.dumps(seed_json(rows), indent=2) if as_json else seed_markdown(rows))


@vram.command()
@click.argument("model")
@click.option(
    "--kv-dtype",
    type=click.Choice(["bf16", "fp16", "fp8", "fp32"]),
    default="bf16",
    show_default=True,
    help="How the KV cache is stored.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, in bytes.")
def show(model: str, kv_dtype: str, as_json: bool) -> None:
    """
    Show a model's parameters, its weights in each format, and its KV cache a token and a context.

    \b
    Examples:
      llmload vram show Llama-3.1-8B-Instruct
      llmload vram show DeepSeek-V3 --kv-dtype fp8
      llmload vram show gemma-3-12b-it --json
    """
    from llmload.vram.catalogue import load_model
    from llmload.vram.model_sheet import model_sheet, sheet_json, sheet_text

    sheet = model_sheet(load_model(model), kv_dtype)
    click.echo(json.dumps(sheet_json(sheet), indent=2) if as_json else sheet_text(sheet))


@vram.command("gpus")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with the source of each card's figures.")
def list_gpus(as_json: bool) -> None:
    """
    List the graphics cards llmload knows: memory as CUDA reports it, bandwidth and 16-bit speed.

    \b
    Examples:
      llmload vram gpus
      llmload vram gpus --json
    """
    from dataclasses import asdict

    from llmload.vram.gpus import gpus, gpus_text

    click.echo(json.dumps([asdict(gpu) for gpu in gpus()], indent=2) if as_json else gpus_text(gpus()))


@vram.command("models")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with the source of each config.")
def list_models(as_json: bool) -> None:
    """
    List the models whose configs ship with llmload.

    \b
    Examples:
      llmload vram models
      llmload vram models --json
    """
    from llmload.vram.catalogue import model_entries

    if as_json:
        click.echo(json.dumps(model_entries(), indent=2))
    else:
        click.echo("\n".join(f"{entry['name']:<34}{entry['hf_id'] or ''}".rstrip() for entry in model_entries()))
