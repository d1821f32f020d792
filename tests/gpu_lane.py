"""``make test-gpu``: on a bare machine with a GPU, what is marked ``gpu`` and a benchmark, in ten minutes, with one report.

Needs Python 3.10 and torch, and nothing of this project installed. Writes OUT/report.md, report.json, junit.xml, bench.json
and what each step said.

Exit 0: every test passed, and a TensorRT and a CUDA row were measured; 3: something failed; 4: something could not be run
here, which is no pass.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import signal
import subprocess
import sys
import time
import venv
import xml.etree.ElementTree as ET
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CONFIG = "upernet_r18_synthetic"
BUDGET_S = 600.0
# Names as pip has them. torch is the machine's own, built for its driver.
PACKAGES = (
    "click", "msgspec", "numpy", "opencv-python-headless", "pillow", "rich",
    "pytest", "filelock", "psutil", "scipy", "onedl-mmsegmentation", "onedl-mmengine", "onedl-mmcv", "ftfy", "regex",
    "onnx", "onnxscript", "onnxruntime-gpu", "tensorrt", "cuda-bindings", "matplotlib", "jinja2",
)  # fmt: skip
VERSIONS = ("torch", "onnx", "onnxruntime-gpu", "onnxruntime", "tensorrt", "tensorrt-cu12", "tensorrt-cu13", "cuda-bindings")
BACKENDS = ("onnx", "tensorrt")


class Lane:
    """Runs steps against one deadline, and keeps what each said."""

    def __init__(self, out: Path, budget_s: float) -> None:
        self.out, self.end = out, time.monotonic() + budget_s
        self.steps: list[dict] = []
        self.environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}

    def run(self, name: str, command: list[str], *, share: float = 1.0) -> int:
        """Run one step; it and all it started end at its share of the time that is left. What it says goes to OUT/NAME.log."""
        left = max(1.0, share * (self.end - time.monotonic()))
        begun = time.monotonic()
        say(f"{name} (at most {left:.0f} s) ...")
        with (self.out / f"{name}.log").open("w") as log:
            try:
                process = subprocess.Popen(
                    command, cwd=ROOT, env=self.environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
                )
            except OSError as error:
                log.write(f"{error}\n")
                status: int | str = 127
            else:
                try:
                    status = process.wait(left)
                except subprocess.TimeoutExpired:
                    status = "out of time"
                finally:
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
        self.steps.append(
            {
                "step": name,
                "status": status,
                "seconds": round(time.monotonic() - begun, 1),
                "command": command,
                "log": f"{name}.log",
            }
        )
        say(f"{name}: {'done' if status == 0 else f'ended with {status}'}")
        return status if isinstance(status, int) else 124


def say(text: str) -> None:
    sys.stderr.write(f"test-gpu: {text}\n")
    sys.stderr.flush()


def device() -> dict[str, str] | None:
    """What the driver says of the first GPU; None where there is none."""
    fields = ("name", "driver_version", "compute_cap", "memory.total")
    command = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.splitlines()
    except (OSError, subprocess.SubprocessError):
        return None
    cells = [cell.strip() for cell in said[0].split(",")] if said else []
    return dict(zip(fields, cells)) if len(cells) == len(fields) else None  # noqa: B905  as long, by the line before


def install(lane: Lane, wheels: Path | None) -> tuple[str, list[str]]:
    """A Python that sees the machine's torch and the wheels; and the packages that it lacks."""
    if wheels is None:
        return sys.executable, []
    place = lane.out / "venv"
    venv.create(place, system_site_packages=True, with_pip=True, clear=True)
    python = str(place / "bin" / "python")
    offline = [python, "-m", "pip", "install", "--no-index", "--find-links", str(wheels), "--quiet"]
    if lane.run("install", [*offline, *PACKAGES], share=0.3) == 0:
        return python, []
    # One at a time then: what is missing is named, and the rest is tried with what there is.
    missing = [name for name in PACKAGES if lane.run(f"install-{name}", [*offline, name], share=0.1)]
    return python, missing


def counted(junit: Path) -> dict:
    """Passed, failed and skipped tests by name, as pytest wrote them."""
    found: dict = {"passed": [], "failed": {}, "skipped": {}}
    try:
        cases = list(ET.parse(junit).iter("testcase"))
    except (OSError, ET.ParseError):
        return found
    for case in cases:
        name = f"{case.get('classname')}::{case.get('name')}"
        problem = next((one for one in case if one.tag in {"failure", "error", "skipped"}), None)
        if problem is None:
            found["passed"].append(name)
        else:
            text = " ".join((problem.get("message") or "").split())[:300]
            found["skipped" if problem.tag == "skipped" else "failed"][name] = text
    return found


def rows(bench: Path) -> list[dict]:
    """The rows of a benchmark as this project writes them; nothing is computed here but what ``bench.log`` shows."""
    try:
        told = json.loads(bench.read_bytes())["rows"]
    except (OSError, ValueError, KeyError):
        return []
    names = ("backend", "precision", "device", "status", "reason")
    return [{name: row.get(name) for name in names} for row in told]


def versions(python: str) -> dict[str, str]:
    """Of the packages that matter, as that Python finds them."""
    code = (
        "import json, sys\nfrom importlib import metadata\nfound = {}\nfor name in sys.argv[1:]:\n"
        "    try: found[name] = metadata.version(name)\n    except metadata.PackageNotFoundError: pass\n"
        "print(json.dumps(found))"
    )
    done = subprocess.run([python, "-c", code, *VERSIONS], capture_output=True, text=True, timeout=60, check=False)
    return json.loads(done.stdout) if done.returncode == 0 else {}


def judged(report: dict) -> tuple[int, list[str]]:
    """The exit status, and why it is not 0."""
    tests, failed, open_ = report["tests"], [], []
    if report["device"] is None:
        open_.append("the driver shows no NVIDIA GPU")
    if tests["failed"]:
        failed.append(f"{len(tests['failed'])} tests failed")
    if tests["skipped"]:
        open_.append(f"{len(tests['skipped'])} tests were skipped")
    if not tests["passed"]:
        open_.append("no test passed")
    measured = {
        (row["backend"], str(row["device"]).startswith("cuda")) for row in report["bench"] if row["status"] == "measured"
    }
    open_ += [f"no {name} row was measured on CUDA" for name in BACKENDS if (name, True) not in measured]
    open_ += [f"{step['step']} ran out of time" for step in report["steps"] if step["status"] == "out of time"]
    open_ += [f"{name} is not among the wheels" for name in report["missing"]]
    return 3 if failed else 4 if open_ else 0, failed + open_


def markdown(report: dict, bench_log: str) -> str:
    tests, gpu = report["tests"], report["device"]
    lines = [
        "# GPU tests", "",
        f"**{report['verdict']}**" + (": " + "; ".join(report["reasons"]) if report["reasons"] else ""), "",
        f"- device, by its driver: {', '.join(f'{k} {v}' for k, v in gpu.items()) if gpu else 'none'}",
        f"- {report['platform']}, Python {report['python']}; " + ", ".join(f"{k} {v}" for k, v in report["versions"].items()),
        f"- commit {report['commit']}; {report['seconds']:.0f} s",
        f"- tests: {len(tests['passed'])} passed, {len(tests['failed'])} failed, {len(tests['skipped'])} skipped", "",
        "| test | | |", "|---|---|---|",
    ]  # fmt: skip
    lines += [f"| {name} | passed | |" for name in tests["passed"]]
    for kind in ("failed", "skipped"):
        lines += [f"| {name} | {kind} | {text.replace('|', '/')} |" for name, text in tests[kind].items()]
    lines += ["", "| row | device | precision | | |", "|---|---|---|---|---|"]
    lines += [
        f"| {row['backend']} | {row['device'] or '-'} | {row['precision']} | {row['status']} | {row['reason'] or ''} |"
        for row in report["bench"]
    ]
    lines += ["", "| step | ended with | seconds |", "|---|---|---|"]
    lines += [f"| {step['step']} | {step['status']} | {step['seconds']} |" for step in report["steps"]]
    return "\n".join([*lines, "", "```", bench_log.strip(), "```", ""])


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="make test-gpu", description=__doc__.splitlines()[0])
    parser.add_argument("--wheels", type=Path, help="folder of wheels; by default this Python has all packages")
    parser.add_argument("--out", type=Path, default=Path("gpu-report"))
    parser.add_argument("--tests", default="tests", help="what pytest is given")
    parser.add_argument("--artifact", type=Path, action="append", help="to measure, in the place of a made one")
    parser.add_argument("--budget", type=float, default=BUDGET_S, help="seconds for all")
    chosen = parser.parse_args(arguments)
    if chosen.wheels is not None and not chosen.wheels.is_dir():
        parser.error(f"--wheels: no folder '{chosen.wheels}'")
    begun, out = time.monotonic(), chosen.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    for old in ("junit.xml", "bench.json", "report.json", "report.md"):
        (out / old).unlink(missing_ok=True)  # of a run before: a step that does not come to its end must leave nothing
    lane = Lane(out, chosen.budget)
    python, missing = install(lane, chosen.wheels)
    segdeploy = [python, "-m", "segdeploy"]
    lane.run("doctor", [*segdeploy, "doctor"], share=0.2)
    pytest = [python, "-m", "pytest", "-m", "gpu", "-p", "no:cacheprovider", f"--junitxml={out / 'junit.xml'}", "-rs"]
    lane.run("pytest", [*pytest, chosen.tests], share=0.6)
    artifacts = chosen.artifact or []
    if not artifacts:
        made = [*segdeploy, "export", CONFIG, "--random-weights", "--name", "lane", "--out", str(out / "exports")]
        lane.run("export", [*made, *(word for name in BACKENDS for word in ("--to", name))], share=0.6)
        artifacts = sorted(path.parent for path in (out / "exports").rglob("manifest.json"))
    if artifacts:
        formats = {json.loads((path / "manifest.json").read_bytes()).get("format") for path in artifacts}
        # A backend that nothing was exported for would end the whole benchmark; the verdict misses its row.
        asked = [word for name in BACKENDS if name in formats for word in ("--backend", name)]
        bench = [*segdeploy, "bench", *map(str, artifacts), *asked, "--device", "cuda", "--json", str(out / "bench.json")]
        lane.run("bench", bench)
    log = out / "bench.log"
    commit = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    report = {
        "schema": 1,
        "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "commit": commit.stdout.strip() or "unknown",
        "platform": platform.platform(),
        "python": platform.python_version(),
        "device": device(),
        "versions": versions(python),
        "missing": missing,
        "tests": counted(out / "junit.xml"),
        "bench": rows(out / "bench.json"),
        "steps": lane.steps,
        "seconds": round(time.monotonic() - begun, 1),
    }
    status, reasons = judged(report)
    report |= {"status": status, "verdict": {0: "passed", 3: "failed", 4: "undecided"}[status], "reasons": reasons}
    (out / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    (out / "report.md").write_text(markdown(report, log.read_text() if log.is_file() else "no benchmark"))
    say(f"{report['verdict']}{': ' + '; '.join(reasons) if reasons else ''}")
    say(f"report: {out / 'report.md'}")
    return status


if __name__ == "__main__":
    sys.exit(main())
