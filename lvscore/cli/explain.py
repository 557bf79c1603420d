"""``lvscore explain``: what happens to one frame of a capture, and why."""

from typing import Any

import click

from lvscore.cli.setup import Options, WholeNumber, engine_options
from lvscore.cli.streams import put
from lvscore.errors import ConfigError
from lvscore.io import open_pcap

__all__ = ["explain"]


@click.command()
@click.argument("source", metavar="IN")
@click.option(
    "--frame", type=WholeNumber(1), required=True, metavar="N", help="Which, the first is 1."
)
@engine_options
def explain(source: str, frame: int, **options: Any) -> None:
    """Say step by step what the director does with frame N of capture IN, after those before it."""
    engine = Options(**options).engine()
    count = 0
    # One frame at a time, so that the engine has seen exactly those before frame N.
    with open_pcap(source, batch_size=1) as reader:
        for batch in reader:
            for index in range(len(batch)):
                count += 1
                if count == frame:
                    now = int(batch.timestamp[index])
                    told = engine.explain(batch[index], now, link_type=batch.link_type)
                    put(f"{told}\n")
                    return
            engine.process_batch(batch)
    raise ConfigError(f"--frame {frame}: {source} has {count} frames")
