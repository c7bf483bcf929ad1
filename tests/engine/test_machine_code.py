"""The kernels as compiled for GPUs that this machine needn't have: nothing spilled, loads ahead of their use.

A part of what scripts.gpu.kernels compiles. In a process of its own, since Triton's interpreter, which the other
tests use, compiles nothing; some seconds, unless Triton has them in its cache.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

pytest.importorskip("triton")
from bsnn.engine import machine_code
from bsnn.engine.machine_code import Code, launches
from scripts.gpu import kernels
from scripts.gpu.kernels import CARDS, MMA, Compiled

KERNELS = (
    ("layer_error", "tf32x3", 80, 64),
    ("update", "tf32x3", 80, 64),
    ("layer_forward", "tf32x3", 90, 64),
    ("update", "tf32x3", 90, 32),
    ("layer_error", "tf32x3", 100, 64),
    ("layer_error", "ieee", 89, 64),
)
PROGRAM = """
import json, sys
from bsnn.engine.machine_code import compiled, launches
for kernel, precision, capability, batch in json.loads(sys.argv[1]):
    print(json.dumps(vars(compiled(launches(24, 500, batch, precision)[kernel], capability))))
"""


def test_kernels_compile_without_spills_and_with_loads_ahead(root: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-c", PROGRAM, json.dumps(KERNELS)]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for (kernel, precision, capability, batch), line in zip(KERNELS, done.stdout.splitlines(), strict=True):
        what = f"{kernel} {precision} sm_{capability} B {batch}"
        values = json.loads(line)
        code = Code(**values | {name: Counter(values[name]) for name in ("loop", "rest")})
        assert code.stack <= kernels.MOST_STACK, f"{what}: {code.stack} bytes of stack"
        assert code.spilled_in_loop == 0, what
        assert code.shared <= 99 * 1024, what  # the least that a card has
        item = Compiled(500, batch, precision, capability, launches(24, 500, batch, precision)[kernel], code)
        card = next(card for card in CARDS if card.capability == capability)
        assert kernels.resident(item, card) >= 2, what
        if kernel != "update":
            assert code.copies_ahead, what
        if precision == "ieee":
            assert machine_code.count(code.loop, "FFMA") > 0.8 * sum(code.loop.values()), what
        else:
            assert machine_code.count(code.loop, "HGMMA" if capability == 90 else "", *MMA) > 0, what


LISTING = """
.text.kernel:
        /*0000*/                   MOV R1, c[0x0][0x28] ;
        /*0010*/              @!P0 BRA `(.L_x_2) ;
.L_x_1:
        /*0020*/                   LDGSTS.E.BYPASS.128 [R3], [R2.64] ;
        /*0030*/                   DEPBAR.LE SB0, 0x4 ;
        /*0040*/                   LDL R5, [R1] ;
        /*0050*/                   FFMA R4, R5, R6, R4 ;
        /*0060*/                   FFMA R7, R5, R6, R7 ;
        /*0070*/               @P1 BRA `(.L_x_1) ;
.L_x_2:
        /*0080*/                   STG.E [R2.64], R4 ;
        /*0090*/                   EXIT ;
.L_x_3:
        /*00a0*/                   BRA `(.L_x_3);
"""


def test_reading_machine_code() -> None:
    loop, rest = machine_code._instructions(LISTING)
    code = Code(32, 16, 0, loop, rest)
    assert machine_code.count(loop, "FFMA") == 2
    assert rest == Counter({"MOV": 1, "BRA": 2, "STG.E": 1, "EXIT": 1})
    assert (code.spilled_in_loop, code.copies_ahead) == (1, 4)
    assert code.executed(10)["FFMA"] == 20


def test_bounds_by_hand() -> None:
    """An H100 with one program for each of its 132 multiprocessors, 4 warps each."""
    launch = machine_code.Launch("update", (), (("B", 64), ("STEP", 16)), 4, (12, 11))
    code = Code(128, 0, 8192, Counter({"FFMA": 1000, "HGMMA.64": 1}), Counter({"DFMA": 500}))
    item = Compiled(500, 64, "tf32x3", 90, launch, code)
    found = kernels.bounds(item, CARDS[1])
    clock = 1 / 1.98e3  # microseconds
    assert found["instructions"] == pytest.approx(4 * (4 * 1001 + 500) / 4 * clock)
    assert found["float32"] == pytest.approx(4 * 32 * 4000 / 128 * clock)
    assert found["float64"] == pytest.approx(4 * 32 * 500 / 64 * clock)
    assert found["tensor cores"] == pytest.approx(3 * 24 * 500 * 500 * 64 / 132 / 1024 * clock)
    assert found["memory"] == pytest.approx((4 * 4 * 24 * 500 * 500 + 2 * 4 * 24 * 500 * 64) / (0.9 * 3.35e6))
    assert kernels.resident(item, CARDS[1]) == 4  # by its registers


def test_a_step_launches_what_the_report_counts() -> None:
    """24 networks of 500 units in blocks of 64; the shapes' tiles don't depend on the stack."""
    found = launches(24, 500, 64, "ieee")
    assert set(found) == {*kernels.LAYER, "forward", "backward", "evaluate", "norms"}
    assert [found[name].programs for name in kernels.LAYER] == [192, 192, 1536]
    assert [found[name].trips for name in kernels.LAYER] == [16, 16, 4]
    for name, launch in launches(7, 500, 64, "ieee").items():
        assert launch.constants == found[name].constants, name
