"""The small errors that can be put into a source file, and the file with one of them."""

import ast
import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

OTHER: dict[type, type] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.And: ast.Or, ast.Or: ast.And,
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult, ast.Mod: ast.Add, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
}
REMOVED = {"clamp", "detach", "floor", "ceil", "round", "abs", "contiguous"}
"""Methods whose call is replaced by what they are called on."""

UNSEEN = {"device", "stacklevel"}
"""Keyword arguments that no test on a CPU can miss."""

Change = tuple[str, Callable[[], ast.AST]]


@dataclass(frozen=True)
class Mutant:
    """Source ``file`` with one error. ``name`` tells it apart from all others, whatever the lines
    above it become; ``line`` is where it is now; ``number`` counts the changes of the file."""

    file: str
    line: int
    name: str
    number: int

    @property
    def order(self) -> bytes:
        """A fixed draw: the mutants that come first are a sample, and stay one as code changes."""
        return hashlib.sha256(self.name.encode()).digest()


def mutants(file: Path) -> list[Mutant]:
    """All of ``file``, in the order of its lines."""
    text = file.read_text()
    lines, times = text.splitlines(), Counter[str]()
    result = []
    for number, (_, node, (what, _)) in enumerate(_changes(ast.parse(text))):
        name = f"{file}: {lines[node.lineno - 1].strip()}  [{what}]"
        times[name] += 1
        name += f" #{times[name]}" if times[name] > 1 else ""
        result.append(Mutant(str(file), node.lineno, name, number))
    return result


def mutated(mutant: Mutant) -> str:
    """The source of its file with the error in it."""
    tree = ast.parse(Path(mutant.file).read_text())
    for number, (put, _, (_, make)) in enumerate(_changes(tree)):
        if number == mutant.number:
            put(make())
            return ast.unparse(ast.fix_missing_locations(tree))
    raise ValueError(f"{mutant.file} has no change {mutant.number}: it was written since")


def _changes(tree: ast.AST) -> Iterator[tuple[Callable[[ast.AST], None], ast.AST, Change]]:
    """How to put a new node in an old one's place, the old one, and the change."""
    for parent, field, index, node in _nodes(tree):

        def put(new: ast.AST, parent=parent, field=field, index=index) -> None:
            if index is None:
                setattr(parent, field, new)
            else:
                getattr(parent, field)[index] = new

        for change in _of(node):
            yield put, node, change


def _nodes(parent: ast.AST) -> Iterator[tuple[ast.AST, str, int | None, ast.AST]]:
    """Every node that computes; not annotations, docstrings, decorators, assertions and errors."""
    for field, value in ast.iter_fields(parent):
        if field in ("annotation", "returns", "decorator_list", "bases"):
            continue
        for index, node in enumerate(value if isinstance(value, list) else [value]):
            if not isinstance(node, ast.AST) or _says_only(node):
                continue
            yield parent, field, index if isinstance(value, list) else None, node
            if not isinstance(node, ast.Raise):
                yield from _nodes(node)


def _says_only(node: ast.AST) -> bool:
    """Whether ``node`` is for readers, type checkers or the text of an error."""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return True
    if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
        return True
    if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("Error", "warn", "cast")):
        return True
    if isinstance(node, ast.Assign) and isinstance(node.value, (ast.Subscript, ast.BinOp)):
        return ast.unparse(node.targets[0])[:1].isupper() and "[" in ast.unparse(node.value)
    return isinstance(node, (ast.Assert, ast.JoinedStr, ast.Import, ast.ImportFrom))


def _of(node: ast.AST) -> Iterator[Change]:
    """The changes of one node; each makes a new node of the same kind of place."""
    match node:
        case ast.Compare(ops=[first, *rest]) if type(first) in OTHER:
            other = OTHER[type(first)]
            ops = [other(), *rest]
            yield other.__name__, lambda: ast.Compare(node.left, ops, node.comparators)
        case ast.BoolOp(op=op):
            yield OTHER[type(op)].__name__, lambda: ast.BoolOp(OTHER[type(op)](), node.values)
        case ast.BinOp(op=op) if type(op) in OTHER and not _text(node):
            other = OTHER[type(op)]
            yield other.__name__, lambda: ast.BinOp(node.left, other(), node.right)
        case ast.UnaryOp(op=ast.Not() | ast.Invert() | ast.USub()):
            yield f"without {type(node.op).__name__}", lambda: node.operand
        case ast.Constant(value=bool() as value):
            yield str(not value), lambda: ast.Constant(not value)
        case ast.Constant(value=int() | float() as value):
            yield f"{value} + 1", lambda: ast.Constant(value + 1)
            yield f"{value} - 1", lambda: ast.Constant(value - 1)
        case ast.Call():
            if isinstance(node.func, ast.Attribute) and node.func.attr in REMOVED:
                yield f"without {node.func.attr}", lambda: node.func.value
            for at, keyword in enumerate(node.keywords):
                rest = node.keywords[:at] + node.keywords[at + 1:]
                if keyword.arg not in {None, *UNSEEN}:
                    yield f"without {keyword.arg}=", lambda k=rest: ast.Call(
                        node.func, node.args, k
                    )
        case ast.Return(value=ast.expr() as value) if ast.unparse(value) != "None":
            yield "returns None", lambda: ast.Return(ast.Constant(None))
        case ast.If() | ast.IfExp():
            test = ast.UnaryOp(ast.Not(), node.test)
            if isinstance(node, ast.If):
                yield "if not", lambda: ast.If(test, node.body, node.orelse)
            else:
                yield "if not", lambda: ast.IfExp(test, node.body, node.orelse)
        case ast.Expr(value=ast.Call()) | ast.AugAssign() | ast.Raise():
            yield "left out", ast.Pass


def _text(node: ast.BinOp) -> bool:
    return any(
        isinstance(side, ast.JoinedStr)
        or isinstance(side, ast.Constant) and isinstance(side.value, str)
        for side in (node.left, node.right)
    )
