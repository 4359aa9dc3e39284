"""The code that made a row: a hash of a function's module and of all its imports, and its commit.

Local modules enter by their syntax trees, so that comments, docstrings and formatting do not count; installed
packages enter by their version. Nothing is imported for this: imports are parsed from the source.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import site
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from importlib import metadata
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

from raysweep.callables import globals_of, origins

__all__ = ["Code", "changes", "checkout", "of_files", "of_object"]

_MOST_FILES = 2000
# Fields of a syntax tree without meaning, or dependent on the Python version.
_IGNORED = ("type_comment", "kind", "ctx", "type_params")
_SKIPPED = frozenset({"raysweep"})


@dataclass(frozen=True)
class Code:
    """The code that made some rows.

    Attributes:
        sha: 16 hex digits over `parts`; "" where no source can be read.
        parts: The hash of the syntax tree of each local file (by relative path where possible), or a package's version.
        commit: Commit of the repository that holds the function's file, or "".
        dirty: Whether that checkout has uncommitted changes; None without a repository.
    """

    sha: str = ""
    parts: Mapping[str, str] = field(default_factory=dict)
    commit: str = ""
    dirty: bool | None = None


def of_object(code: Any, folders: Sequence[Path] = (), module: str = "") -> Code:
    """The code of a function, class or instance: its module, the one that names it, and their imports; of a notebook,
    what it uses of other cells.

    Args:
        code: A function, class or instance; also wrapped, partial or bound.
        folders: Folders of local modules, besides `sys.path`.
        module: The module by which a sweep names it.
    """
    files, texts = [], dict[str, str]()
    named = getattr(sys.modules.get(module), "__file__", None)
    if named:
        files.append(Path(named))
    waiting, seen = list(origins(code)), set[int]()
    while waiting:
        origin = waiting.pop(0)
        if isinstance(origin, str):
            texts["arguments"] = hashlib.sha256((texts.get("arguments", "") + origin).encode()).hexdigest()[:16]
            continue
        if id(origin) in seen:
            continue
        seen.add(id(origin))
        place = origin if isinstance(origin, ModuleType) else inspect.getmodule(origin)
        file = getattr(place, "__file__", None)
        if file is not None and Path(file).is_file():
            files.append(Path(file))
            continue
        try:
            text = inspect.getsource(origin)  # a notebook's cell
        except (OSError, TypeError):
            if isinstance(origin, type):  # a notebook's class has no source of its own, but its methods have
                waiting += [member for member in map(_function, vars(origin).values()) if member is not None]
            continue
        texts[getattr(origin, "__qualname__", "function")] = _tree_sha(text)
        for name, value in globals_of(origin):  # no file holds them all
            if isinstance(value, str):
                texts[name] = hashlib.sha256(value.encode()).hexdigest()[:16]
            else:
                waiting.append(value)
    local = [file for file in files if not str(file.resolve()).startswith(_installed())]
    found = of_files(local, folders) if local else Code()
    if not texts:
        return found
    return replace(_summed({**found.parts, **texts}, None), commit=found.commit, dirty=found.dirty)


def _function(member: Any) -> Any:
    """The function of a class's member: a method, also a static one or a property; None for any other."""
    member = getattr(member, "fget", None) or getattr(member, "__func__", member)
    return member if inspect.isfunction(member) else None


def of_files(files: Sequence[Path], folders: Sequence[Path] = ()) -> Code:
    """The code of some files: Python files with their imports, others by their bytes."""
    parts: dict[str, str] = {}
    waiting, seen = [file.resolve() for file in files], set[Path]()
    base = waiting[0].parent if waiting else Path()
    search = [*map(str, folders), str(base), *sys.path]
    while waiting and len(seen) < _MOST_FILES:
        file = waiting.pop()
        if file in seen:
            continue
        seen.add(file)
        sha, imported = _read(file, *_stamp(file))
        parts[_shown(file, [str(base), *search])] = sha
        for name, level in imported:
            for found in _resolved(name, level, file, search):
                if isinstance(found, Path):
                    waiting.append(found.resolve())
                else:
                    parts[found[0]] = found[1]
    return _summed(parts, base)


def changes(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    """The difference between the parts of two codes, in words: `helper.py changed`, `numpy 2.0 -> 2.1`."""
    found = []
    for name in sorted({*old, *new}):
        before, after = old.get(name), new.get(name)
        if before == after:
            continue
        if before is None or after is None:
            found.append(f"{name} {'is new' if before is None else 'is gone'}")
        else:
            found.append(
                f"{name} changed" if name.endswith(".py") or "." not in before else f"{name} {before} -> {after}"
            )
    return found


def checkout(folder: Path) -> tuple[str, bool | None]:
    """(commit, whether anything tracked differs from it) of the repository around a folder; ("", None) without one."""
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        return commit[:40], bool(_git(folder, "status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.SubprocessError):
        return "", None


def _git(folder: Path, *arguments: str) -> str:
    # No hooks, no monitors: a repository may come from anybody, and its settings may run programs.
    safe = ["-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null"]
    done = subprocess.run(
        ["git", *safe, *arguments], cwd=folder, capture_output=True, text=True, timeout=10, check=True, errors="replace"
    )
    return done.stdout.strip()


def _summed(parts: Mapping[str, str], base: Path | None) -> Code:
    if not parts:
        return Code()
    text = "\n".join(f"{name}={sha}" for name, sha in sorted(parts.items()))
    commit, dirty = checkout(base) if base is not None else ("", None)
    return Code(hashlib.sha256(text.encode()).hexdigest()[:16], dict(parts), commit, dirty)


def _stamp(file: Path) -> tuple[int, int]:
    try:
        found = file.stat()
    except OSError:
        return 0, 0
    return found.st_mtime_ns, found.st_size


@lru_cache(maxsize=4096)
def _read(file: Path, changed: int, size: int) -> tuple[str, tuple[tuple[str, int], ...]]:
    """A file's hash, and the (name, level) of each import in it."""
    try:
        data = file.read_bytes()
        if file.suffix != ".py":
            return hashlib.sha256(data).hexdigest()[:16], ()
        tree = ast.parse(data)
    except (OSError, SyntaxError, ValueError, RecursionError):
        return hashlib.sha256(file.name.encode()).hexdigest()[:16], ()
    return _tree_sha(tree), tuple(dict.fromkeys(_imports(tree)))


def _tree_sha(source: ast.AST | str) -> str:
    try:
        tree = ast.parse(inspect.cleandoc(source)) if isinstance(source, str) else source
        text = _dump(tree)
    except (SyntaxError, RecursionError):
        text = str(source)
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()[:16]


def _dump(node: Any) -> str:
    """A syntax tree as text, the same in every Python version; without docstrings."""
    if isinstance(node, ast.AST):
        fields = []
        for name, value in ast.iter_fields(node):
            if name in _IGNORED or value is None or value == []:
                continue
            if name == "body" and isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                value = [s for i, s in enumerate(value) if not (i == 0 and _is_text(s))]
            fields.append(f"{name}={_dump(value)}")
        return f"{type(node).__name__}({','.join(fields)})"
    if isinstance(node, list):
        return f"[{','.join(map(_dump, node))}]"
    return repr(node)


def _is_text(statement: ast.stmt) -> bool:
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )


def _imports(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """(dotted name, level) of all imports, also those inside functions; for `from a import b` both a and a.b."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, 0) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or "", node.level
            yield from ((f"{node.module}.{a.name}" if node.module else a.name, node.level) for a in node.names)


def _resolved(name: str, level: int, file: Path, search: Sequence[str]) -> Iterator[Path | tuple[str, str]]:
    """The local files that an import runs, or the (package, version) that it takes from an installed one."""
    if level:
        folder = file.parent
        for _ in range(level - 1):
            folder = folder.parent
        yield from _files_below(folder, name)
        return
    top, *rest = name.split(".")
    if top in _SKIPPED or not top:
        return
    try:
        spec = PathFinder.find_spec(top, search)
    except (ImportError, ValueError, OSError):
        return
    if spec is None:
        return
    if not _is_local(spec):
        if top not in sys.stdlib_module_names:
            yield top, _version(top)
        return
    if spec.origin and spec.origin.endswith(".py"):
        yield Path(spec.origin)
    for place in spec.submodule_search_locations or ():
        yield from _files_below(Path(place), ".".join(rest))


def _files_below(folder: Path, name: str) -> Iterator[Path]:
    """The files that a dotted `name` refers to below a folder: packages' `__init__.py` on the way, and the module."""
    if (folder / "__init__.py").is_file():
        yield folder / "__init__.py"
    for part in name.split(".") if name else ():
        if (folder / f"{part}.py").is_file():
            yield folder / f"{part}.py"
            return
        folder = folder / part
        if not folder.is_dir():
            return
        if (folder / "__init__.py").is_file():
            yield folder / "__init__.py"


def _is_local(spec: ModuleSpec) -> bool:
    places = [spec.origin] if spec.origin and spec.origin != "built-in" else list(spec.submodule_search_locations or ())
    return bool(places) and not any(str(Path(place).resolve()).startswith(_installed()) for place in places if place)


@lru_cache(maxsize=1)
def _installed() -> tuple[str, ...]:
    """Folders of the standard library and of installed packages."""
    paths = sysconfig.get_paths()
    found = [paths[key] for key in ("stdlib", "platstdlib", "purelib", "platlib")]
    found += [*site.getsitepackages(), site.getusersitepackages()]
    return tuple({f"{Path(path).resolve()}/" for path in found})


@lru_cache(maxsize=256)
def _version(top: str) -> str:
    try:
        return metadata.version(top)
    except metadata.PackageNotFoundError:
        names = _distributions().get(top, [])
        return metadata.version(names[0]) if names else "unknown"


@lru_cache(maxsize=1)
def _distributions() -> Mapping[str, list[str]]:
    return metadata.packages_distributions()


def _shown(file: Path, roots: Sequence[str]) -> str:
    """A file's path relative to the folder of its modules: the same in every checkout, and unique per file."""
    for root in roots:
        if root and file.is_relative_to(root):
            return file.relative_to(root).as_posix()
    return "/".join(file.parts[-3:])
