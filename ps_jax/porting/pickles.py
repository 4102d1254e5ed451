"""A pickle reader that runs nothing: the part of the format that PyTorch's files use, into plain containers.

A pickle is a program for a stack machine, and Python's own one calls whatever the program names. This one knows
names only as names: those in a table of the caller's stand for functions of the caller's, every other one becomes an
`Opaque` that remembers what it was and takes in silence all that the program does to it. Nothing is ever imported,
looked up by name, or called that is not in that table.
"""

import mmap
import struct
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

LARGEST_PICKLE = 1 << 26  # bytes; that of a large checkpoint has about a million
_BYTE, _SHORT, _LENGTH, _LONG_LENGTH = (struct.Struct(form) for form in ("<B", "<H", "<I", "<Q"))
_INTEGER, _FLOAT = struct.Struct("<i"), struct.Struct(">d")
_SIMPLE = (str, bytes, int, float, type(None))


class Refused(Exception):
    """What a file holds that is not read, in words."""


class Global(NamedTuple):
    """A name that a pickle refers to: a class or a function, never looked up."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


class Opaque:
    """An object of a class that is not read; only the name of what would have made it is kept."""

    __slots__ = ("maker",)

    def __init__(self, maker: str):
        self.maker = maker


class Dictionary(dict):
    """A dictionary; the class sets those apart that a pickle may give attributes, which are left out."""

    __slots__ = ()


class _Mark(NamedTuple):
    """The stack below a mark."""

    stack: list[Any]


class Pickle:
    """Reads one pickle.

    Args:
      data: bytes in which the pickle lies.
      calls: what to do for a name that the pickle calls: functions that return plain values or `Refused`.
      persistent: turns a persistent id of the pickle, a plain value, into what stands for it.
    """

    def __init__(
        self,
        data: bytes | mmap.mmap,
        calls: Mapping[str, Callable[..., Any]],
        persistent: Callable[[Any], Any],
    ):
        self._data = data
        self._calls = calls
        self._persistent = persistent

    def load(self, position: int = 0) -> tuple[Any, int]:
        """Reads the pickle that begins at `position`.

        Returns:
          The object, and the position behind the pickle.

        Raises:
          Refused: an instruction or value that PyTorch does not write.
          Exception: of any type, for a malformed pickle.
        """
        self._position, self._end = position, min(len(self._data), position + LARGEST_PICKLE)
        self._frame_end = position
        self._stack: list[Any] = []
        self._marks: list[_Mark] = []
        self._memo: dict[int, Any] = {}
        while True:
            if self._position >= self._end:
                raise Refused("a pickle that is cut off")
            begin, frame_end = self._position, self._frame_end
            code = self._data[begin]
            self._position += 1
            if code == ord("."):
                if self._marks or len(self._stack) != 1 or self._position < self._frame_end:
                    raise Refused("a pickle that ends in the middle of a value")
                return self._stack[0], self._position
            instruction = _INSTRUCTIONS.get(code)
            if instruction is None:
                raise Refused(f"pickle instruction 0x{code:02x}, which PyTorch does not write")
            instruction(self)
            if begin < frame_end < self._position:
                raise Refused("an instruction that reaches over the end of its frame")

    # Reading

    def _take(self, count: int) -> bytes:
        begin, self._position = self._position, self._position + count
        if self._position > self._end:
            raise Refused("a pickle that is cut off")
        return self._data[begin : self._position]

    def _number(self, form: struct.Struct) -> Any:
        begin, self._position = self._position, self._position + form.size
        if self._position > self._end:
            raise Refused("a pickle that is cut off")
        return form.unpack_from(self._data, begin)[0]

    def _line(self) -> str:
        rest = self._data[self._position : min(self._end, self._position + 1000)]
        line, newline, _ = rest.partition(b"\n")
        if not newline:
            raise Refused("a name without end")
        self._position += len(line) + 1
        return line.decode()

    # The stack

    def _push(self, value: Any) -> None:
        """For values whose making changes the stack; the rest appends to it at once."""
        self._stack.append(value)

    def _pop_to_mark(self) -> list[Any]:
        values, self._stack = self._stack, self._marks.pop().stack
        return values

    def _mark(self) -> None:
        self._marks.append(_Mark(self._stack))
        self._stack = []

    def _pop(self) -> None:
        if self._stack:
            self._stack.pop()
        else:
            self._pop_to_mark()

    # Containers

    def _make_tuple(self, count: int) -> None:
        values = [self._stack.pop() for _ in range(count)]
        self._stack.append(tuple(reversed(values)))

    def _append(self, values: list[Any]) -> None:
        target = self._stack[-1]
        if isinstance(target, Opaque):
            return
        if type(target) is set:
            target.update(map(_key, values))
        elif type(target) is list:
            target.extend(values)
        else:
            raise Refused(f"items for a {type(target).__name__}")

    def _set_items(self, values: list[Any]) -> None:
        target = self._stack[-1]
        if len(values) % 2:
            raise Refused("a key without a value")
        if isinstance(target, Opaque):
            return
        if not isinstance(target, dict):
            raise Refused(f"entries for a {type(target).__name__}")
        for name, value in zip(values[::2], values[1::2], strict=True):
            target[_key(name)] = value

    # Names and what is made of them

    def _push_name(self, module: Any, name: Any) -> None:
        if not (type(module) is str and type(name) is str):
            raise Refused("a name that is not text")
        self._stack.append(Global(module, name))

    def _make(self, arguments: Any, maker: Any) -> None:
        if not isinstance(arguments, tuple):
            raise Refused("arguments that are not a tuple")
        if isinstance(maker, Opaque):
            self._stack.append(Opaque(maker.maker))
        elif not isinstance(maker, Global):
            raise Refused(f"a call of a {type(maker).__name__}")
        elif str(maker) in self._calls:
            self._stack.append(self._calls[str(maker)](*arguments))
        else:
            self._stack.append(Opaque(str(maker)))

    def _make_object(self, arguments: Any, maker: Any) -> None:
        """An object of a class: PyTorch makes all that is read here by functions and by calls of classes."""
        if not isinstance(arguments, tuple) or not isinstance(maker, Global | Opaque):
            raise Refused(f"an object of a {type(maker).__name__}")
        self._stack.append(Opaque(maker.maker if isinstance(maker, Opaque) else str(maker)))

    def _make_object_with_names(self) -> None:
        if not isinstance(self._stack.pop(), dict):
            raise Refused("named arguments that are not a dictionary")
        self._make_object(self._stack.pop(), self._stack.pop())

    def _build(self) -> None:
        """State of an object: PyTorch gives it to ordered dictionaries (`_metadata`) and to classes not read."""
        self._stack.pop()
        if not isinstance(self._stack[-1], (Opaque, Dictionary)):
            raise Refused(f"state for a {type(self._stack[-1]).__name__}")

    def _begin_frame(self) -> None:
        """A frame says how much can be read at once; here it only must not end elsewhere than it says."""
        if self._position < self._frame_end:
            raise Refused("a frame in a frame")
        length = self._number(_LONG_LENGTH)
        self._frame_end = self._position + length

    def _check_protocol(self) -> None:
        protocol = self._take(1)[0]
        if protocol > 5:
            raise Refused(f"pickle protocol {protocol}")


def _key(value: Any) -> Any:
    """A key of a dictionary or a member of a set: hashed, so only what is simple."""
    simple = isinstance(value, (*_SIMPLE, Global, Opaque))
    if not (simple or (type(value) is tuple and all(isinstance(item, _SIMPLE) for item in value))):
        raise Refused(f"a key that is a {type(value).__name__}")
    return value


def _text(machine: Pickle, form: struct.Struct) -> None:
    # Strings of Python 2 come through here, too; their bytes are text in all that PyTorch writes.
    machine._stack.append(machine._take(machine._number(form)).decode("utf-8", "surrogatepass"))


def _bytes(machine: Pickle, form: struct.Struct) -> None:
    machine._stack.append(machine._take(machine._number(form)))


def _integer(machine: Pickle) -> None:
    machine._stack.append(int.from_bytes(machine._take(machine._number(_BYTE)), "little", signed=True))


_INSTRUCTIONS: dict[int, Callable[[Pickle], Any]] = {
    ord(code): instruction
    for code, instruction in {
        # The pickle itself
        "\x80": Pickle._check_protocol,
        "\x95": Pickle._begin_frame,
        # The stack and the memo
        "(": Pickle._mark,
        "0": Pickle._pop,
        "1": Pickle._pop_to_mark,
        "2": lambda m: m._stack.append(m._stack[-1]),
        "q": lambda m: m._memo.__setitem__(m._number(_BYTE), m._stack[-1]),
        "r": lambda m: m._memo.__setitem__(m._number(_LENGTH), m._stack[-1]),
        "\x94": lambda m: m._memo.__setitem__(len(m._memo), m._stack[-1]),
        "h": lambda m: m._stack.append(m._memo[m._number(_BYTE)]),
        "j": lambda m: m._stack.append(m._memo[m._number(_LENGTH)]),
        # Plain values
        "N": lambda m: m._stack.append(None),
        "\x88": lambda m: m._stack.append(True),
        "\x89": lambda m: m._stack.append(False),
        "J": lambda m: m._stack.append(m._number(_INTEGER)),
        "K": lambda m: m._stack.append(m._number(_BYTE)),
        "M": lambda m: m._stack.append(m._number(_SHORT)),
        "\x8a": _integer,
        "G": lambda m: m._stack.append(m._number(_FLOAT)),
        "T": lambda m: _text(m, _LENGTH),
        "U": lambda m: _text(m, _BYTE),
        "X": lambda m: _text(m, _LENGTH),
        "\x8c": lambda m: _text(m, _BYTE),
        "\x8d": lambda m: _text(m, _LONG_LENGTH),
        "B": lambda m: _bytes(m, _LENGTH),
        "C": lambda m: _bytes(m, _BYTE),
        "\x8e": lambda m: _bytes(m, _LONG_LENGTH),
        "\x96": lambda m: _bytes(m, _LONG_LENGTH),
        # Containers
        ")": lambda m: m._stack.append(()),
        "]": lambda m: m._stack.append([]),
        "}": lambda m: m._stack.append(Dictionary()),
        "\x8f": lambda m: m._stack.append(set()),
        "t": lambda m: m._push(tuple(m._pop_to_mark())),
        "\x85": lambda m: m._make_tuple(1),
        "\x86": lambda m: m._make_tuple(2),
        "\x87": lambda m: m._make_tuple(3),
        "l": lambda m: m._push(m._pop_to_mark()),
        "\x91": lambda m: m._push(frozenset(map(_key, m._pop_to_mark()))),
        "a": lambda m: m._append([m._stack.pop()]),
        "e": lambda m: m._append(m._pop_to_mark()),
        "\x90": lambda m: m._append(m._pop_to_mark()),
        "s": lambda m: m._set_items([m._stack.pop(), m._stack.pop()][::-1]),
        "u": lambda m: m._set_items(m._pop_to_mark()),
        # Names, and what is made of them
        "c": lambda m: m._push_name(m._line(), m._line()),
        "\x93": lambda m: m._push_name(*[m._stack.pop(), m._stack.pop()][::-1]),
        "R": lambda m: m._make(m._stack.pop(), m._stack.pop()),
        "\x81": lambda m: m._make_object(m._stack.pop(), m._stack.pop()),
        "\x92": Pickle._make_object_with_names,
        "b": Pickle._build,
        "Q": lambda m: m._stack.append(m._persistent(m._stack.pop())),
    }.items()
}
