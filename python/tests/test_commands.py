"""Commands as functions: their results, warnings, failures, progress, and Ctrl-C."""

import os
import signal
import subprocess
import sys
import threading
import time

import plmconv
import pytest


def test_a_model_is_quantized_validated_and_verified(model, text, tmp_path):
    file = tmp_path / "q8.gguf"
    written = plmconv.quantize(model, file, "q8_0")
    assert written["schema"] == "plmconv.written/1"
    assert written["files"] == [str(file)] and file.stat().st_size == written["bytes"]
    report = plmconv.validate(file, model, text=text, ctx=32, chunks=2)
    assert report["passed"] and report["kl_divergence"]["mean"] < 0.01
    assert plmconv.verify(file, model)["schema"] == "plmconv.verification/1"
    assert plmconv.inspect(file)["format"] == "GGUF"


def test_beyond_the_limits_is_a_verdict_and_no_exception(model, text, tmp_path):
    file = tmp_path / "q2.gguf"
    plmconv.quantize(model, file, "q2_k")
    report = plmconv.validate(file, model, text=text, ctx=32, chunks=2, max_kld=0.0)
    assert report["passed"] is False
    with pytest.raises(plmconv.ParityFailure) as failure:
        plmconv.quantize(model, tmp_path / "again.gguf", "q2_k", validate=text, validate_ctx=32, max_kld=0.0)
    assert failure.value.exit_code == 3 and failure.value.report["validation"]["passed"] is False


def test_failures_have_the_programs_sentence_and_hint(model, tmp_path):
    with pytest.raises(plmconv.Failure) as failure:
        plmconv.quantize(tmp_path / "absent", tmp_path / "x.gguf", "q4")
    assert "absent" in failure.value.message and failure.value.hint and "hint: " in str(failure.value)
    with pytest.raises(plmconv.UsageError, match="q4_k_m"):
        plmconv.quantize(model, tmp_path / "x.gguf", "q4_k_mm")
    with pytest.raises(ValueError, match="--no-such-flag"):
        plmconv.quantize(model, tmp_path / "x.gguf", "q4", no_such_flag=1)
    assert list(tmp_path.iterdir()) == []


def test_warnings_are_pythons(model, tmp_path):
    with pytest.warns(plmconv.PlmconvWarning, match="--effort has no effect"):
        plmconv.quantize(model, tmp_path / "x.gguf", "q8_0", effort="max")


def test_statistics_guide_the_rounding(model, text, tmp_path):
    stats = tmp_path / "stats.gguf"
    measured = plmconv.calibrate(model, stats, text=text, calibration_ctx=32, calibration_chunks=4)
    assert measured["tokens"] == 128
    plan = plmconv.quantize(model, tmp_path / "x.gguf", "auto", stats=stats, target_bpw=4.5, dry_run=True)
    assert plan["bits_per_weight"] <= 4.5


def test_text_is_generated(model):
    written = plmconv.generate(model, "The film", tokens=5)
    assert len(written["tokens"]) == 5 and written["text"]


def test_metadata_is_edited(model, tmp_path):
    plmconv.quantize(model, tmp_path / "a.gguf", "q8_0")
    plmconv.edit(tmp_path / "a.gguf", tmp_path / "b.gguf", set={"general.name": "renamed"})
    metadata = plmconv.inspect(tmp_path / "b.gguf")["metadata"]
    assert metadata["general.name"] == "renamed"


def test_python_stays_free_and_is_told_how_far_it_is(model, text, tmp_path):
    beats, told = [], []
    done = threading.Event()

    def beat():
        while not done.wait(0.01):
            beats.append(time.monotonic())

    thread = threading.Thread(target=beat)
    thread.start()
    plmconv.perplexity(model, text, ctx=64, progress=lambda *at: told.append(at))
    done.set()
    thread.join()
    assert beats
    assert all(len(at) == 4 and 0 <= at[1] <= at[2] for at in told)


def test_an_exception_in_the_callback_ends_the_command(model, text, tmp_path):
    class Enough(Exception):
        pass

    def enough(*_):
        raise Enough

    with pytest.raises(Enough):
        plmconv.calibrate(model, tmp_path / "s.gguf", text=text, self_tokens=20000, progress=enough)
    assert not (tmp_path / "s.gguf").exists()
    # The next command is not stopped by it.
    assert plmconv.inspect(model)["architecture"] == "plm"


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_ctrl_c_is_keyboard_interrupt(model, tmp_path):
    code = (
        "import plmconv, sys\n"
        "print('ready', flush=True)\n"
        "try:\n"
        "    plmconv.calibrate(sys.argv[1], sys.argv[2], self_tokens=1000000)\n"
        "except KeyboardInterrupt:\n"
        "    sys.exit(42)\n"
    )
    out = tmp_path / "stats.gguf"
    process = subprocess.Popen([sys.executable, "-c", code, str(model), str(out)], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"ready\n"
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 42
    assert not out.exists()


def test_the_program_comes_with_the_wheel(model, tmp_path):
    program = [sys.executable, "-m", "plmconv"]
    version = subprocess.run([*program, "--version"], capture_output=True, text=True, check=True).stdout
    assert version.startswith(f"plmconv {plmconv.__version__}")
    missing = subprocess.run([*program, "inspect", "absent.gguf"], capture_output=True, text=True)
    assert missing.returncode == 1 and missing.stderr.startswith("error: ")
    assert subprocess.run([*program, "quantize"], capture_output=True).returncode == 2
