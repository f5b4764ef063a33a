"""The plug-in system: a frozen pydantic class is its own options, and `use:` names the class.

`use` has three spellings, told apart by the colon: `rubric` (a built-in or an installed entry point),
`package.module:Name`, and `file.py:Name`, relative to the YAML file that says so. The other keys are the class's own
fields, so a typo is reported with file, line and the allowed keys before any model loads.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, GetJsonSchemaHandler, PrivateAttr, ValidationError
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, InitErrorDetails, PydanticCustomError, core_schema

from prefdistill.errors import JudgeError, PluginError, PrefdistillError, RubricError, did_you_mean
from prefdistill.protocols import Check, Judge, RunContext, Sampler, Teacher, Trainer
from prefdistill.records import CheckScore, Draft, Failure, Judgement, Prompt, Verdict, digest
from prefdistill.rubric import Rubric

GROUPS: dict[type, str] = {
    Sampler: "samplers",
    Teacher: "teachers",
    Judge: "judges",
    Trainer: "trainers",
    Check: "checks",
}
"""Contract to plug-in folder; the entry-point group is `prefdistill.` and this name."""
METHODS = {"samplers": "sample", "teachers": "replies", "judges": "judge", "trainers": "train", "checks": "check"}


class Plugin(BaseModel):
    """Base of every plug-in: fields are the recipe's keys, one method is the contract.

    `open(context)` is called once before any thread starts; costly state belongs there, in private attributes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, arbitrary_types_allowed=True)

    operational: ClassVar[frozenset[str]] = frozenset()
    """Fields that do not change results (concurrency, keys, timeouts): a run may go on with other values."""
    version: ClassVar[str] = "1"
    """Raised when the same options give other results; plug-ins from files are known by their file's hash."""
    max_concurrency: ClassVar[int | None] = None
    """The largest number of threads that may call it at once; None is any."""

    _use: str = PrivateAttr(default="")
    _directory: Path = PrivateAttr(default_factory=Path.cwd)
    """Where a `file.py:Name` was looked up."""
    _source_hash: str = PrivateAttr(default="")

    def open(self, context: RunContext) -> None:
        """Prepare costly state; does nothing unless overridden."""

    def close(self) -> None:
        """Free what `open` made; does nothing unless overridden."""

    def identity(self) -> dict[str, Any]:
        """Return what results depend on: name, version or source hash, and options that are not operational."""
        options = {}
        for name in type(self).model_fields:
            value = getattr(self, name)
            if name not in self.operational and value is not None:
                options[name] = _identity(value)
        file, colon, name = self._use.rpartition(":")
        use = f"{Path(file).name}:{name}" if colon and file.endswith(".py") else self._use
        return {"use": use or type(self).__name__, "version": self._source_hash or self.version, **options}


def _identity(value: Any) -> Any:
    if isinstance(value, Plugin):
        return value.identity()
    if isinstance(value, (list, tuple)):
        return [_identity(item) for item in value]
    if isinstance(value, Path) and value.is_file():
        return [value.name, hashlib.sha256(value.read_bytes()).hexdigest()[:16]]
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else value


class FunctionJudge(Plugin):
    """A plain function `judge(prompt, drafts, rubric) -> list[float | None]` as a judge; None abstains."""

    _function: Callable[..., Any] = PrivateAttr()

    def judge(self, prompt: Prompt, drafts: Sequence[Draft], rubric: Rubric) -> Any:
        """Return what the function returns; the judge stage turns numbers into a Verdict."""
        return self._function(prompt, drafts, rubric)


class FunctionCheck(Plugin):
    """A plain function `check(prompt, text) -> float | None` as a check; None does not apply."""

    _function: Callable[..., Any] = PrivateAttr()

    def check(self, prompt: Prompt, completion: str) -> CheckScore | None:
        """Score one text."""
        score = self._function(prompt, completion)
        if score is None or isinstance(score, CheckScore):
            return score
        if not isinstance(score, Real) or not 0 <= float(score) <= 1:
            raise JudgeError(f"check {self._use}: gave {score!r}; expected a number from 0 to 1, a CheckScore or None")
        return CheckScore(score=float(score))


FUNCTION_PLUGINS: dict[str, type[FunctionJudge] | type[FunctionCheck]] = {
    "judges": FunctionJudge,
    "checks": FunctionCheck,
}


def asks_teacher(judge: Any) -> bool:
    """Whether a judge asks a teacher: its own, or the recipe's; not where it brings one of its own making."""
    return "teacher" in getattr(type(judge), "model_fields", {}) and not getattr(judge, "brings_teacher", False)


def name_of(plugin: Any) -> str:
    """Return what a plug-in is called: its `use`, else its class."""
    return getattr(plugin, "_use", "") or type(plugin).__name__


def verdict_of(result: Any, prompt: Prompt, drafts: Sequence[Draft], judge: str) -> Verdict:
    """Turn what a judge returned into a Verdict: a Verdict as it is, numbers one a draft, None abstaining.

    Raises:
        JudgeError: it is neither, has another length than `drafts`, or holds something that is not a finite number.
    """
    if isinstance(result, Verdict):
        return result
    if isinstance(result, (str, bytes)) or (not isinstance(result, Sequence) and not hasattr(result, "tolist")):
        raise JudgeError(
            f"judge {judge}: returned {type(result).__name__}; expected a Verdict or a list of {len(drafts)} numbers"
        )
    values = result.tolist() if hasattr(result, "tolist") else list(result)
    if len(values) != len(drafts):
        raise JudgeError(
            f"judge {judge}: returned {len(values)} numbers for {len(drafts)} drafts; expected one a draft"
        )
    judgements, failures = [], []
    for draft, value in zip(drafts, values, strict=True):
        if value is None:
            failures.append(Failure(stage="judge", key=draft.id, kind="empty", message=f"judge {judge} abstained"))
            continue
        if isinstance(value, bool) or not isinstance(value, Real) or value != value or abs(value) == float("inf"):
            raise JudgeError(f"judge {judge}: gave {value!r} for draft {draft.id}; expected a finite number or None")
        judgements.append(Judgement(draft_id=draft.id, judge=judge, value=float(value), scale="custom"))
    return Verdict(prompt_id=prompt.id, judgements=tuple(judgements), failures=tuple(failures))


@lru_cache
def installed(folder: str) -> dict[str, EntryPoint]:
    """Return the entry points of the group `prefdistill.<folder>` by name.

    Raises:
        PluginError: two installed packages offer one name.
    """
    found: dict[str, EntryPoint] = {}
    for point in entry_points(group=f"prefdistill.{folder}"):
        other = found.get(point.name)
        if other is not None and other.value != point.value:
            packages = [each.dist.name if each.dist else "?" for each in (other, point)]
            raise PluginError(
                f"{folder}: `{point.name}` is offered by two installed packages, {packages[0]} and {packages[1]}; "
                f"uninstall one, or write `use: {point.value}`"
            )
        found[point.name] = point
    return found


def resolve(use: str, folder: str, directory: Path) -> tuple[type[Plugin] | Callable[..., Any], str]:
    """Return what `use` names, and the hash of its source file where it is no installed plug-in.

    Raises:
        PluginError: the name, module, file or attribute does not exist, or importing it fails.
    """
    if ":" not in use:
        points = installed(folder)
        if use not in points:
            raise PluginError(
                f"unknown name `{use}`{did_you_mean(use, points)} (installed {folder}: {', '.join(sorted(points))}; "
                f"or `file.py:Name`, `package.module:Name`)"
            )
        try:
            return points[use].load(), ""
        except (ImportError, AttributeError) as problem:
            raise PluginError(f"`{use}` ({points[use].value}) cannot be imported: {problem}") from problem
    module_name, _, attribute = use.rpartition(":")
    if module_name.endswith(".py"):
        path = (directory / module_name).resolve()
        if not path.is_file():
            raise PluginError(f"`{use}`: no file {module_name} in {directory}; the path is relative to the YAML file")
        module = _load_file(path, hashlib.sha256(path.read_bytes()).hexdigest()[:16])
    else:
        try:
            module = importlib.import_module(module_name)
        except PrefdistillError:
            raise
        except Exception as problem:
            raise PluginError(f"`{use}`: module {module_name} cannot be imported: {problem}") from problem
    if not hasattr(module, attribute):
        names = [name for name in vars(module) if not name.startswith("_")]
        raise PluginError(f"`{use}`: {module_name} has no `{attribute}`{did_you_mean(attribute, names)}")
    source = Path(inspect.getfile(module)) if getattr(module, "__file__", None) else None
    source_hash = hashlib.sha256(source.read_bytes()).hexdigest()[:16] if source and source.exists() else ""
    return getattr(module, attribute), source_hash


@lru_cache
def _load_file(path: Path, content_hash: str) -> Any:
    """Import a Python file under a name of its own, without touching `sys.path`."""
    import sys

    name = f"prefdistill_plugin_{path.stem}_{content_hash}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise PluginError(f"{path}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except PrefdistillError:
        raise
    except Exception as problem:
        del sys.modules[name]
        raise PluginError(f"{path}: importing it failed: {type(problem).__name__}: {problem}") from problem
    return module


def _takes(function: Callable[..., Any], count: int) -> bool:
    """Whether a function can be called with `count` positional arguments; True where Python cannot tell."""
    try:
        inspect.signature(function).bind(*range(count))
    except TypeError:
        return False
    except ValueError:
        return inspect.isfunction(function)
    return True


def build_plugin(use: str, options: Mapping[str, Any], folder: str, directory: Path) -> Plugin:
    """Return the plug-in that `use` names, its options validated by itself.

    Raises:
        PluginError: `use` cannot be resolved, or names something that is no such plug-in.
        pydantic.ValidationError: an option is unknown or has a wrong value.
    """
    target, source_hash = resolve(use, folder, directory)
    method = METHODS[folder]
    if inspect.isclass(target):
        if not issubclass(target, Plugin) or not callable(getattr(target, method, None)):
            raise PluginError(f"`{use}` is no {folder[:-1]}: expected a subclass of prefdistill.Plugin with `{method}`")
        cls: type[Plugin] = target
    elif callable(target) and folder in FUNCTION_PLUGINS and _takes(target, 3 if folder == "judges" else 2):
        cls = FUNCTION_PLUGINS[folder]
    else:
        raise PluginError(f"`{use}` is no {folder[:-1]}: expected a subclass of prefdistill.Plugin with `{method}`")
    context = {"directory": directory}
    plugin = cls.model_validate(dict(options), context=context)
    plugin._use = use
    plugin._directory = directory
    plugin._source_hash = source_hash
    if isinstance(plugin, (FunctionJudge, FunctionCheck)):
        plugin._function = target
    return plugin


class _UseSchema:
    """Pydantic's view of `Use[Contract]`: a mapping with `use` and the plug-in's own keys, or a bare name."""

    def __init__(self, contract: type) -> None:
        self.folder = GROUPS[contract]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.with_info_plain_validator_function(
            self._validate, serialization=core_schema.plain_serializer_function_ser_schema(dump_plugin)
        )

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        names = sorted(installed(self.folder))
        forms: list[dict[str, Any]] = [{"enum": names}, {"type": "string", "pattern": ":"}]
        options: dict[str, Any] = {}
        for name in names:
            target, _ = resolve(name, self.folder, Path.cwd())
            if inspect.isclass(target) and issubclass(target, Plugin) and self.folder != "checks":
                for key, part in _option_schemas(target).items():
                    options.setdefault(key, part)
        mapping = {
            "type": "object",
            "required": ["use"],
            "properties": {"use": {"anyOf": forms}, **options},
            "additionalProperties": True,
        }
        return {"anyOf": [*forms, mapping], "description": f"One of prefdistill.{self.folder}, with its options."}

    def _validate(self, value: Any, info: core_schema.ValidationInfo) -> Any:
        if isinstance(value, Plugin):
            return value
        if isinstance(value, str):
            value = {"use": value}
        if not isinstance(value, Mapping) or not isinstance(value.get("use"), str):
            names = {"names": ", ".join(sorted(installed(self.folder)))}
            if isinstance(value, Mapping) and "use" in value:
                wrong = PydanticCustomError("use", "expected a name, one of: {names}", names)
                line = InitErrorDetails(type=wrong, loc=("use",), input=value["use"])
                raise ValidationError.from_exception_data("use", [line])
            text = "expected `use: NAME` with the plug-in's options beside it, one of: {names}"
            raise PydanticCustomError("use", text, names)
        options = {key: each for key, each in value.items() if key != "use"}
        directory = (info.context or {}).get("directory", Path.cwd())
        try:
            return build_plugin(value["use"], options, self.folder, directory)
        except PluginError as problem:
            raise ValidationError.from_exception_data(
                "use",
                [
                    InitErrorDetails(
                        type=PydanticCustomError("value_error", "{text}", {"text": str(problem)}),
                        loc=("use",),
                        input=value["use"],
                    )
                ],
            ) from None
        except ValidationError as problem:
            raise _with_keys(problem, value["use"], self.folder, directory) from None


def _with_keys(problem: ValidationError, use: str, folder: str, directory: Path) -> ValidationError:
    """Return the plug-in's validation error with the allowed keys in each unknown-key line."""
    target, _ = resolve(use, folder, directory)
    lines: list[InitErrorDetails] = []
    for item in problem.errors():
        kind: str | PydanticCustomError = item["type"]
        place = item["loc"][:-1] if item["type"] == "extra_forbidden" else item["loc"]
        section = _section_at(target, place) if item["type"] in ("extra_forbidden", "model_type") else None
        if section is not None and item["type"] == "extra_forbidden":
            kind = PydanticCustomError("extra_forbidden", "unknown key", {"keys": sorted(section.model_fields)})
        else:
            about = {} if section is None else {"model": section}
            kind = PydanticCustomError(
                item["type"], "{text}", {**(item.get("ctx") or {}), "text": item["msg"], **about}
            )
        lines.append(InitErrorDetails(type=kind, loc=item["loc"], input=item["input"]))
    return ValidationError.from_exception_data(use, lines)


def _section_at(target: Any, place: Sequence[int | str]) -> type[BaseModel] | None:
    """Return a plug-in's class, or that of the option at `place` inside it; None where that has no keys of its own."""
    for part in place:
        field = getattr(target, "model_fields", {}).get(part)
        kinds = [] if field is None else [field.annotation, *get_args(field.annotation)]
        target = next((kind for kind in kinds if inspect.isclass(kind) and issubclass(kind, BaseModel)), None)
    return target if inspect.isclass(target) and issubclass(target, BaseModel) else None


def _option_schemas(target: type[Plugin]) -> dict[str, Any]:
    """Return the JSON Schemas of a plug-in's own keys, self-contained."""
    schema = target.model_json_schema()
    return {name: _without_refs(part, schema.get("$defs", {})) for name, part in schema.get("properties", {}).items()}


def _without_refs(part: Any, definitions: Mapping[str, Any]) -> Any:
    """Return a schema with its references written out, so that it can stand in another schema."""
    if isinstance(part, list):
        return [_without_refs(item, definitions) for item in part]
    if not isinstance(part, dict):
        return part
    found = dict(definitions[part["$ref"].rsplit("/", 1)[-1]]) if "$ref" in part else {}
    rest = {key: value for key, value in part.items() if key != "$ref"}
    return {key: _without_refs(value, definitions) for key, value in {**found, **rest}.items()}


def describe_plugins() -> dict[str, dict[str, tuple[str, str]]]:
    """Return, per plug-in folder, every installed name with its first docstring line and its options."""
    table: dict[str, dict[str, tuple[str, str]]] = {}
    for folder in GROUPS.values():
        table[folder] = {}
        for name in sorted(installed(folder)):
            target, _ = resolve(name, folder, Path.cwd())
            summary = (inspect.getdoc(target) or "").split("\n")[0]
            fields = getattr(target, "model_fields", {})
            shown = [
                key if each.is_required() else f"{key}={each.get_default(call_default_factory=True)!r}"
                for key, each in fields.items()
            ]
            table[folder][name] = (summary, ", ".join(shown))
    return table


def dump_plugin(plugin: Plugin) -> dict[str, Any]:
    """Return the mapping that a recipe would hold: `use` and all options."""
    file, colon, name = plugin._use.rpartition(":")
    use = f"{(plugin._directory / file).resolve()}:{name}" if colon and file.endswith(".py") else plugin._use
    return {"use": use, **plugin.model_dump(mode="json")}


if TYPE_CHECKING:
    Contract = TypeVar("Contract")
    Use = Annotated[Contract, "use"]
else:

    class Use:
        """`Use[Judge]`: a recipe key that names a plug-in; validated, it *is* the plug-in, with `use` kept."""

        def __class_getitem__(cls, contract: type) -> Any:
            return Annotated[Any, _UseSchema(contract)]


@lru_cache(maxsize=256)
def build_checks(rubric: Rubric) -> Mapping[str, Check]:
    """Return the rubric's checks by criterion name.

    Raises:
        RubricError: a check is unknown or its options are wrong, with the criterion's name.
    """
    checks: dict[str, Check] = {}
    for criterion in rubric.checked:
        assert criterion.check is not None
        try:
            plugin = build_plugin(criterion.check, criterion.options, "checks", rubric._directory)
        except PluginError as problem:
            raise RubricError(f"{rubric.where(criterion.name, 'check')}: {problem}") from None
        except ValidationError as problem:
            target, _ = resolve(criterion.check, "checks", rubric._directory)
            keys = sorted(target.model_fields) if inspect.isclass(target) and issubclass(target, Plugin) else []
            lines = []
            for item in problem.errors():
                key = ".".join(map(str, item["loc"]))
                if item["type"] == "extra_forbidden":
                    text = f"unknown key{did_you_mean(key, keys)} (keys of `{criterion.check}`: {', '.join(keys)})"
                elif item["type"] == "missing":
                    text = "missing; add this key"
                else:
                    text = f"found {item['input']!r}; {item['msg'].removeprefix('Value error, ')}"
                lines.append(f"{rubric.where(criterion.name, key)}: {text}")
            raise RubricError("\n".join(lines)) from None
        assert isinstance(plugin, Check)
        checks[criterion.name] = plugin
    return checks


def check_identity(rubric: Rubric) -> str:
    """Return the hash of the rubric's checks, own ones by their source."""
    return digest({name: check.identity() for name, check in build_checks(rubric).items() if isinstance(check, Plugin)})
