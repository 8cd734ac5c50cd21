"""Finds models of the Hugging Face Hub: `--weights=OWNER/NAME` becomes the directory of a downloaded snapshot.

Only the config, the tokenizer's files and the safetensors are downloaded, into the cache of `huggingface_hub`. The
environment variables of `huggingface_hub` hold here, too: HF_HOME, HF_TOKEN, HF_ENDPOINT, HF_HUB_OFFLINE.
"""

from __future__ import annotations

import functools
import os
import re
from pathlib import Path

from r1jax.storage import is_installed
from r1jax.tokenizers.hugging_face import BESIDE, NEEDED
from r1jax.weights import gguf_files

PREFIX = "hf://"  # says that the rest is a name of the Hub, also where a folder OWNER lies here
ID = re.compile(r"(?P<repo>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(@(?P<revision>[\w./-]+))?", re.ASCII)
SNAPSHOT = re.compile(r"models--(?P<owner>[^/]+?)--(?P<name>[^/]+)/snapshots/(?P<revision>[0-9a-f]{40})$")
FILES = ["config.json", "*.safetensors", "*.safetensors.index.json", "adapter_config.json", NEEDED, *BESIDE]


def locate(weights: str, flag: str = "--weights") -> str:
    """Returns the local directory that `weights` means.

    If `weights` names a model of the Hub, returns the directory of its snapshot, which is downloaded if the cache does
    not have it. If `weights` is a GGUF file, returns a Hugging Face directory with the file's content. Otherwise
    returns `weights` as it is.

    If the current directory has a folder OWNER, then OWNER/NAME and OWNER/NAME@REVISION are local paths. Otherwise they
    name a model of the Hub. hf://OWNER/NAME always names a model of the Hub.

    Args:
        flag: the flag that gave `weights`, for errors.

    Raises:
        ValueError: the GGUF file cannot be read, or the model cannot be downloaded. A download fails if the Hub cannot
            be reached, does not have the model, or does not give access to it. A download also fails if
            `huggingface_hub` is not installed.
    """
    found = ID.fullmatch(weights.removeprefix(PREFIX))
    if weights.startswith(PREFIX):
        if not found:
            raise ValueError(
                f"{flag}={weights} names no model: write {PREFIX}OWNER/NAME, or {PREFIX}OWNER/NAME@REVISION"
            )
    elif weights.lower().endswith(".gguf"):
        return str(gguf_files.locate(weights, flag))
    elif not found or os.path.exists(weights) or os.path.exists(weights.partition("/")[0]):
        return weights
    return download(found["repo"], found["revision"], weights, flag)


@functools.cache  # a run asks several times
def download(repo: str, revision: str | None, shown: str, flag: str) -> str:
    """Returns the directory of a model's snapshot, which is downloaded if the cache does not have it.

    Args:
        repo: OWNER/NAME.
        revision: branch, tag or commit; if None, the main branch.
        shown: the value of `flag`, for errors.

    Raises:
        ValueError: the Hub cannot be reached, does not have the model or the revision, or does not give access to the
            model; or `huggingface_hub` is not installed.
    """
    if not is_installed("huggingface_hub"):
        raise ValueError(
            f'{flag}={shown}: there is no such directory, and the Hugging Face Hub needs the extra "hf": '
            'pip install "r1jax[hf]", or name a directory'
        )
    import huggingface_hub
    from huggingface_hub import errors

    way_out = f"or name the directory of a run or of a model in {flag}"
    no_path = f"{flag}={shown}: there is no such path here, and"
    try:
        return huggingface_hub.snapshot_download(repo, revision=revision, allow_patterns=FILES)
    except errors.GatedRepoError as error:
        raise ValueError(
            f"{flag}={shown}: {repo} is gated. Accept its terms on its page, then run `hf auth login` or set HF_TOKEN"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise ValueError(
            f"{no_path} the Hugging Face Hub shows no model {repo}. Check the name, log in if the model is "
            f"private (run `hf auth login` or set HF_TOKEN), {way_out}"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise ValueError(
            f"{flag}={shown}: {repo} has no revision {revision}. Leave the revision out for the main branch"
        ) from error
    except (OSError, errors.OfflineModeIsEnabled) as error:  # no network, a Hub that is down, a full disk
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f"{no_path} {repo} could not be downloaded from the Hugging Face Hub ({first}). Connect to the Hub, "
            f"copy the model from another machine (hf download {repo} --local-dir=DIR), {way_out}"
        ) from error


def name_of_snapshot(directory: str | Path) -> tuple[str, str] | None:
    """Returns (OWNER/NAME, commit) of a snapshot in the cache of the Hub; None if the directory is no such snapshot."""
    found = SNAPSHOT.search(str(directory))
    return (f"{found['owner']}/{found['name']}", found["revision"]) if found else None
