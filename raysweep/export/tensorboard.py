"""Export to TensorBoard: one folder of event files per run, with its hyper-parameters."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from raysweep.errors import ExportError
from raysweep.export.records import Exported, Record, package

__all__ = ["write"]

_REASON = "reason/text_summary"


def write(records: Sequence[Record], sweep: str, dest: str | None) -> Exported:
    """Bring a log folder up to date. An event file's name ends in the run's digest; new points make a new file.

    Raises:
        ExportError: TensorBoard is not installed, or the folder cannot be written.
    """
    package("tensorboard", "tensorboard")
    if dest is not None and "://" in dest:
        raise ExportError(f"export: --to tensorboard writes event files into a local folder, but --dest is {dest}")
    root = Path(dest or f"tensorboard/{sweep}").expanduser()
    written = points = 0
    try:
        for record in records:
            folder = root / record.run
            files = sorted(folder.glob("events.out.tfevents.*"))
            if any(file.name.endswith(record.digest) for file in files):
                continue
            there = {point for file in files for point in _read(file)}
            new = [p for p in record.points if (p.name, p.step) not in there]
            folder.mkdir(parents=True, exist_ok=True)
            target = folder / f"events.out.tfevents.{int(time.time()):010d}.raysweep.{record.digest}"
            _write_file(target, _events(record, new, first=not files))
            written, points = written + 1, points + len(new)
    except OSError as error:
        raise ExportError(f"export: --dest {root} cannot be written: {error}") from error
    return Exported(str(root), len(records), written, points)


def _events(record: Record, points: Sequence[Any], first: bool) -> Iterator[Any]:
    """The events of one file: its version, the run's hyper-parameters, scalars by step, and how the run ended."""
    event_pb2 = package("tensorboard.compat.proto.event_pb2", "tensorboard")
    summary_pb2 = package("tensorboard.compat.proto.summary_pb2", "tensorboard")
    yield event_pb2.Event(wall_time=record.began, file_version="brain.Event:2")
    if first:
        yield event_pb2.Event(wall_time=record.began, summary=_start(record, summary_pb2))
    for step, group in groupby(points, key=lambda p: p.step):
        own = list(group)
        values = [summary_pb2.Summary.Value(tag=p.name, simple_value=p.value) for p in own]
        yield event_pb2.Event(wall_time=own[0].made, step=step, summary=summary_pb2.Summary(value=values))
    yield event_pb2.Event(wall_time=record.ended, summary=_end(record, summary_pb2))


def _start(record: Record, summary_pb2: Any) -> Any:
    data = package("tensorboard.plugins.hparams.plugin_data_pb2", "tensorboard")
    info = data.SessionStartInfo(group_name=record.run, start_time_secs=record.began)
    for name, value in {**record.params, **record.tags}.items():
        field = (
            "bool_value" if isinstance(value, bool) else "string_value" if isinstance(value, str) else "number_value"
        )
        setattr(info.hparams[name], field, value)
    return _hparams(summary_pb2, "SESSION_START_INFO_TAG", data.HParamsPluginData(session_start_info=info))


def _end(record: Record, summary_pb2: Any) -> Any:
    data = package("tensorboard.plugins.hparams.plugin_data_pb2", "tensorboard")
    api = package("tensorboard.plugins.hparams.api_pb2", "tensorboard")
    status = api.STATUS_FAILURE if record.status == "failed" else api.STATUS_SUCCESS
    info = data.SessionEndInfo(status=status, end_time_secs=record.ended)
    summary = _hparams(summary_pb2, "SESSION_END_INFO_TAG", data.HParamsPluginData(session_end_info=info))
    if record.reason:
        tensor_util = package("tensorboard.util.tensor_util", "tensorboard")
        text = package("tensorboard.plugins.text.metadata", "tensorboard")
        reason = f"**{record.status}**\n\n```\n{record.reason}\n```"
        summary.value.add(
            tag=_REASON,
            metadata=text.create_summary_metadata(display_name="reason", description=""),
            tensor=tensor_util.make_tensor_proto([reason.encode()]),
        )
    return summary


def _hparams(summary_pb2: Any, tag: str, data: Any) -> Any:
    metadata = package("tensorboard.plugins.hparams.metadata", "tensorboard")
    summary = summary_pb2.Summary()
    summary.value.add(
        tag=getattr(metadata, tag), metadata=metadata.create_summary_metadata(data), tensor=metadata.NULL_TENSOR
    )
    return summary


def _write_file(target: Path, events: Iterator[Any]) -> None:
    """Write a file completely or not at all: a name that contains the digest means that the file is complete."""
    writer_of = package("tensorboard.summary.writer.record_writer", "tensorboard").RecordWriter
    temporary = target.with_name(f".tmp-{secrets.token_hex(6)}")
    try:
        with open(temporary, "xb") as stream:
            writer = writer_of(stream)
            for event in events:
                writer.write(event.SerializeToString())
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def _read(file: Path) -> Iterator[tuple[str, int]]:
    """(name, step) of every scalar in an event file."""
    event_pb2 = package("tensorboard.compat.proto.event_pb2", "tensorboard")
    loader = package("tensorboard.backend.event_processing.event_file_loader", "tensorboard")
    for raw in loader.RawEventFileLoader(str(file)).Load():
        event = event_pb2.Event.FromString(raw)
        for value in event.summary.value:
            if value.HasField("simple_value"):
                yield value.tag, event.step
