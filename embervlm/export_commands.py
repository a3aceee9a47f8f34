"""The commands of `embervlm export`: the model as another file or folder.

embervlm export gguf --out m.gguf --type q4_0
embervlm export quantize --out m.gguf --bits 4
embervlm export package --target pi --out on-the-pi
embervlm export onnx --out build/onnx --bits 8
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from embervlm.terminal import FleetOption, GgufOption, user_errors

export_app = typer.Typer(no_args_is_help=True, help="Write the model in other forms.")


@export_app.command(name="gguf")
def export_gguf(
    out: Annotated[Path, typer.Option("--out", metavar="MODEL.gguf", help="Where the file goes.")],
    kind: Annotated[
        str,
        typer.Option(
            "--type", metavar="TYPE", help="f32, q8_0, q4_0 or tq2_0: how weights are kept."
        ),
    ] = "q8_0",
    model: GgufOption = None,
) -> None:
    """Write the one file that the C engine reads (--backend native --model MODEL.gguf)."""
    with user_errors():
        from embervlm.export.gguf import export

        export(model, out, kind)
        typer.echo(f"{out}: {out.stat().st_size:,} bytes.")


@export_app.command(name="quantize")
def export_quantize(
    out: Annotated[Path, typer.Option("--out", metavar="M.gguf", help="Where the file goes.")],
    bits: Annotated[
        str, typer.Option("--bits", metavar="N", help="8, 4, or 1.58 (ternary) a weight.")
    ],
    model: GgufOption = None,
) -> None:
    """Write the engine's file with so many bits a weight, and check its size by arithmetic."""
    with user_errors():
        from embervlm.export.quantize import BITS, TYPES, quantize

        before, sizes = quantize(model, out, bits)
        was, wanted = before.main_type, TYPES[bits].upper()
        typer.echo(
            f"before  {before.file_bytes:>12,} bytes: {before.weights:,} weights, "
            f"{100 * before.share(was):.1f} % of them {was}"
        )
        typer.echo(f"after   {sizes.file_bytes:>12,} bytes: {out}, of which")
        for kind, size in sizes.types.items():
            typer.echo(f"        {size:>12,} {kind} blocks")
        typer.echo(f"        {sizes.header_bytes:>12,} header: names, sizes, tokenizer")
        typer.echo(f"        {sizes.gap_bytes:>12,} alignment")
        typer.echo(f"{100 * sizes.share(wanted):.1f} % of the weights are {wanted} now.")
        if float(bits) > BITS[was]:
            typer.echo(
                f"Most of the weights come from {BITS[was]:g} bits: {bits} give nothing back of "
                "what those lost."
            )
        if bits == "1.58" and not sizes.trained_ternary:
            typer.echo(
                "This network was not trained for ternary weights: measure how far its answers are "
                f"off with 'embervlm eval --backend native --model {out}' before use."
            )


@export_app.command(name="package")
def export_package(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="A folder, new or empty.")],
    target: Annotated[str, typer.Option("--target", metavar="NAME", help="Where it runs: pi.")],
    model: GgufOption = None,
    fleet: FleetOption = None,
) -> None:
    """Write a folder that decides on a Raspberry Pi without pip; see its README.md."""
    with user_errors():
        from embervlm.export.package import package

        size = package(out, target=target, model=model, fleet=fleet)
        typer.echo(f"{out}: {size:,} bytes; its README.md says how to run it.")


@export_app.command(name="onnx")
def export_onnx(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where the folder goes.")],
    model: Annotated[
        Path | None,
        typer.Option("--model", metavar="PATH", help="A model; without it, the one that ships."),
    ] = None,
    bits: Annotated[
        int, typer.Option("--bits", metavar="N", help="32, 8 or 4: how weights are kept.")
    ] = 32,
    photos: Annotated[
        Path | None,
        typer.Option(
            "--photos",
            metavar="DIR",
            help="With 8 or 4 bits, photos to fit the convolutions' ranges on; without it, the "
            "demo's photo, its quarters and their mirror images.",
        ),
    ] = None,
) -> None:
    """Write a folder of ONNX graphs (--backend onnx --model DIR). Needs the onnx extra."""
    with user_errors():
        from embervlm.export.onnx import export

        export(model, out, bits, photos)
        size = sum(path.stat().st_size for path in out.iterdir() if path.is_file())
        typer.echo(f"{out}: {size:,} bytes.")
