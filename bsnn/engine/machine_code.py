"""The machine code of the Triton kernels, for any NVIDIA GPU and on a machine without one.

`launches` lists the kernels that one step of training launches. `compiled` compiles one of them for a compute
capability (90 is Hopper's 9.0). It reads registers, stack, shared memory and the instructions of its machine code with
the assembler's tools that come with Triton. Nothing is executed. Triton caches what it has compiled on disk.

Triton must not be in interpreter mode (TRITON_INTERPRET).
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from bsnn.engine import triton_kernels
from bsnn.engine.functions import Family, Function
from bsnn.engine.passes import BOTTOM, LayerState, Optimiser
from bsnn.engine.triton_passes import Tile, TritonPasses

TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
POINTERS = {torch.float32: "*fp32", torch.float64: "*fp64", torch.int32: "*i32"}


@dataclass(frozen=True)
class Launch:
    """A kernel as a step launches it: types of its arguments, compile-time constants and number of programs."""

    kernel: str
    types: tuple[str, ...]  # "*fp32", "fp32", "i32", ... of the arguments that are no constants
    constants: tuple[tuple[str, Any], ...]
    warps: int
    grid: tuple[int, ...]

    @property
    def programs(self) -> int:
        size = 1
        for extent in self.grid:
            size *= extent
        return size

    @property
    def trips(self) -> int:
        """The number of times that a program goes through the kernel's loop."""
        constants = dict(self.constants)
        if "STEP" not in constants:
            return 1
        return -(-int(constants["B" if self.kernel == "update" else "N"]) // int(constants["STEP"]))


@dataclass(frozen=True)
class Code:
    """A compiled kernel. `loop` and `rest` count instructions inside and outside its main loop, by mnemonic."""

    registers: int  # of a thread
    stack: int  # bytes of a thread in memory, spilled registers
    shared: int  # bytes of a program
    loop: Counter[str]
    rest: Counter[str]

    @property
    def spilled_in_loop(self) -> int:
        """The number of loads and stores of spilled registers."""
        return count(self.loop, "LDL", "STL")

    @property
    def copies_ahead(self) -> int | None:
        """Groups of asynchronous copies that may be in flight when the loop goes on; None if it has no copies."""
        if not count(self.loop, "LDGSTS"):
            return None
        waits = [name for name in self.loop if name.startswith("DEPBAR.LE SB0")]
        return min((int(wait.split(",")[1], 16) for wait in waits), default=0)

    def executed(self, trips: int) -> Counter[str]:
        """Count a warp's instructions. This is an upper bound: of the branches for each family only one is taken."""
        total = self.rest.copy()
        for name, number in self.loop.items():
            total[name] += trips * number
        return total


def count(instructions: Counter[str], *names: str) -> int:
    """Count instructions whose mnemonic's first part is one of `names`: LDS.128 counts as LDS."""
    return sum(number for name, number in instructions.items() if name.split(".")[0] in names)


class _Recorder(TritonPasses):
    """Passes that record launches instead of making them."""

    def _launch(self, kernel: str, grid: tuple[int, ...], tile: Tile, *arguments: Any, **constants: Any) -> None:
        types = tuple(_type_of(argument) for argument in arguments)
        launch = Launch(kernel, types, tuple(constants.items()), tile.warps, grid)
        self.launches = [*getattr(self, "launches", []), launch]


def _type_of(argument: Any) -> str:
    if isinstance(argument, Tensor):
        return POINTERS[argument.dtype]
    return "i32" if isinstance(argument, int) else "fp32"


def launches(K: int, N: int, B: int, precision: str, **options: Any) -> dict[str, Launch]:
    """List the kernels of a step and of an evaluation, by name, for K networks of N units and batches of B.

    `forward` and `backward` are those of a layer; those of the bottom are shorter. Other options are those of
    TritonPasses.
    """
    meta = torch.device("meta")

    def tensor(*shape: int) -> Tensor:
        return torch.empty(shape, device=meta)

    units = {name: tensor(2, K, N) for name in LayerState.__dataclass_fields__ if not name.startswith("V")}
    state = LayerState(V=tensor(2, K, N, N), V_velocity=tensor(2, K, N, N), **units)
    recorder = _Recorder(state, [Function(Family.TANH)] * K, Optimiser(1e-4, 0.5), precision=precision, **options)
    h, (x, error, spare) = [tensor(K, N, B) for _ in range(3)], (tensor(K, N, B) for _ in range(3))
    recorder.forward(BOTTOM, h[0], x)
    recorder.forward_layers(h, x, spare)
    recorder.backward(1, error, h[2], x)
    recorder.backward_layers(h, error, spare, x, torch.empty(2, K, dtype=torch.float64, device=meta))
    recorder.forward(0, h[1], x)
    recorder.evaluate(0, tensor(K, N, 2000), tensor(K, N, 2000))
    # The last of a kernel's variants counts. The first layer's error kernel is the bottom's, the other the layers'.
    found = {launch.kernel: launch for launch in recorder.launches if not dict(launch.constants).get("BOTTOM")}
    return found


def compiled(launch: Launch, capability: int) -> Code:
    """Compile for a compute capability, as if pointers were whole multiples of 16 bytes.

    Raises Triton's errors for a kernel that it can't compile.
    """
    function = getattr(triton_kernels, f"{launch.kernel}_kernel")
    constants, types = dict(launch.constants), iter(launch.types)
    names: Sequence[str] = function.arg_names
    signature = {name: "constexpr" if name in constants else next(types) for name in names}
    source = ASTSource(
        function,
        signature,
        {(names.index(name),): value for name, value in constants.items()},
        {(i,): [["tt.divisibility", 16]] for i, name in enumerate(names) if signature[name].startswith("*")},
    )
    options = {"num_warps": launch.warps, "enable_fp_fusion": True}
    kernel = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        usage = _output("cuobjdump", "-res-usage", file.name)
        listing = _output("nvdisasm", "-c", file.name)
    found = re.search(r"REG:(\d+) STACK:(\d+)", usage)
    assert found is not None, usage
    loop, rest = _instructions(listing)
    return Code(int(found[1]), int(found[2]), kernel.metadata.shared, loop, rest)


def _output(tool: str, *arguments: str) -> str:
    return subprocess.run([TOOLS / tool, *arguments], check=True, capture_output=True, text=True).stdout


def _instructions(listing: str) -> tuple[Counter[str], Counter[str]]:
    """Count mnemonics inside and outside the main loop, the largest set of instructions that reach one another."""
    names: list[str] = []
    conditional: list[bool] = []
    targets: list[str | None] = []
    labels: dict[str, int] = {}
    for line in listing.splitlines():
        if place := re.match(r"(\.L_x_\d+):", line):
            labels[place[1]] = len(names)
        elif instruction := re.match(r"\s+/\*[0-9a-f]{4,}\*/\s+(@\S+\s+)?([A-Z][\w.]*)(.*?);", line):
            guard, name, operands = instruction.groups()
            target = re.search(r"`\((\.L_x_\d+)\)", operands)
            names.append(f"{name}{operands}" if name.startswith("DEPBAR") else name)
            conditional.append(guard is not None or "P" in operands.split("`")[0])
            targets.append(target[1] if target else None)
    after: list[list[int]] = []
    for i, (name, label) in enumerate(zip(names, targets, strict=True)):
        jump = [labels[label]] if label in labels and name.startswith(("BRA", "BSSY", "CALL")) else []
        ends = name.startswith(("BRA", "EXIT", "RET")) and not conditional[i]
        after.append([j for j in [*jump, *([] if ends else [i + 1])] if j < len(names)])
    main = max(_loops(after), key=len, default=set())
    loop = Counter(names[i] for i in main)
    return loop, Counter(names) - loop


def _loops(after: Sequence[Sequence[int]]) -> list[set[int]]:
    """List the strongly connected components of more than one node (Tarjan's algorithm, without recursion)."""
    number, low, stack, on_stack, loops = dict[int, int](), dict[int, int](), list[int](), set[int](), list[set[int]]()
    for root in range(len(after)):
        work = [] if root in number else [(root, 0)]
        while work:
            node, edge = work.pop()
            if edge == 0:
                number[node] = low[node] = len(number)
                stack.append(node)
                on_stack.add(node)
            if edge < len(after[node]):
                work.append((node, edge + 1))
                target = after[node][edge]
                if target not in number:
                    work.append((target, 0))
                elif target in on_stack:
                    low[node] = min(low[node], number[target])
                continue
            if work:
                parent = work[-1][0]
                low[parent] = min(low[parent], low[node])
            if low[node] == number[node]:
                start = stack.index(node)
                component = set(stack[start:])
                del stack[start:]
                on_stack -= component
                if len(component) > 1:
                    loops.append(component)
    return loops
