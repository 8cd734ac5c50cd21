"""Reads files of conversations for fine-tuning: `read(path)`."""

from __future__ import annotations

from collections.abc import Mapping

from r1jax.data import files
from r1jax.data.forms import find_talk
from r1jax.data.readers import NO_COLUMNS, rename


def read(path: str, flag: str, columns: Mapping[str, str] = NO_COLUMNS) -> tuple[str, list[dict]]:
    """Reads a file of conversations. Returns (name of the first record's format, conversations).

    A conversation is {id, messages [{role, content}], problem, response}. `problem` is the first question, and
    `response` the last reply. Messages after the last reply are dropped.

    Args:
        path: a file, a folder or a data set, as `files.records` takes it.
        flag: the flag that named the file, for errors.
        columns: keys to rename, {key in r1jax: key in the file}.

    Raises:
        ValueError: the file cannot be read, or a record is not a conversation.
    """
    found: list[dict] = []
    first = ""
    try:
        for file, number, record in files.records(path):
            where = f"{file}:{number}"
            if not isinstance(record, dict):
                raise ValueError(f"{where} is not a JSON object: {record!r:.60}; give one conversation per line")
            record = rename(record, columns, where) if columns else record
            keys = {key.lower(): value for key, value in record.items()}
            try:
                talk = find_talk(keys)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise ValueError(
                    f"{where} has the keys of a conversation, but unfit values: {error}. Correct the line"
                ) from None
            if talk is None:
                raise ValueError(
                    f"{where} has the keys {', '.join(record)}; a conversation needs messages [{{role, content}}], or "
                    "the keys of a published data set, such as prompt and completion. For other keys, give "
                    "--column=prompt=KEY and --column=completion=KEY with the file's keys"
                )
            messages, first = list(talk.value), first or talk.form
            while messages and messages[-1]["role"] != "assistant":
                messages.pop()
            asked = next((message["content"] for message in messages if message["role"] == "user"), None)
            if asked is None or not messages[-1]["content"].strip():
                raise ValueError(f"{where} has no question with a reply: delete the line, or mend it")
            name = str(keys.get("id") or f"{number - 1}")
            found.append({"id": name, "messages": messages, "problem": asked, "response": messages[-1]["content"]})
    except OSError as error:
        raise ValueError(f"{flag}={path} cannot be read ({error.strerror or error}). Name another file") from error
    except ValueError as error:
        raise ValueError(f"{flag}: {error}") from error
    if not found:
        raise ValueError(f"{flag}={path} holds no conversation. Name another file")
    return first, found
