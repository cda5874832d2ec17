"""What a provider allows in a request, as data: validation, documentation and sandbox read the same.

`kinds` and `sizes` are what a field may be, `files` what the files of a form may be.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from app.errors import InvalidFieldError
from app.providers.rules.files import FileFacts, ImageFiles, facts_of
from app.providers.rules.headers import Header, read_header
from app.providers.rules.kinds import (
    Choice,
    FileOnly,
    Flag,
    ImageUrls,
    Integer,
    Kind,
    Labels,
    Nothing,
    Schema,
    Text,
)
from app.providers.rules.sizes import AnySize, FreeSize

__all__ = [
    "NO_FILES",
    "AnySize",
    "Choice",
    "FileFacts",
    "FileOnly",
    "Files",
    "Flag",
    "FreeSize",
    "Header",
    "ImageFiles",
    "ImageUrls",
    "Integer",
    "Kind",
    "Labels",
    "Needs",
    "Nothing",
    "Rules",
    "Schema",
    "Text",
    "facts_of",
    "read_header",
]

Files = Mapping[str, Sequence[FileFacts]]

NO_FILES: Files = {}
_SHOWN = 80


@dataclass(frozen=True)
class Needs:
    """A field, or one `value` of it, that goes only with certain values of another field."""

    field: str
    value: Any
    other: str
    others: tuple[Any, ...]
    # What the other field is when the request does not say.
    default: Any

    def broken_by(self, fields: Mapping[str, Any]) -> bool:
        """Whether `fields` has this without what it needs."""
        if self.field not in fields or self.value not in {None, fields[self.field]}:
            return False
        return fields.get(self.other, self.default) not in self.others

    def __str__(self) -> str:
        subject = self.field if self.value is None else f"{self.field}={self.value}"
        return f"{subject} needs {self.other} to be {' or '.join(map(str, self.others))}"


@dataclass(frozen=True)
class Rules:
    """What one provider allows: for any model, for some by name, and between fields.

    A name in `models` and `model_files` may be a pattern (`*-plus`); of several that fit, the last
    one counts.  What is `required` may be a field or a file.
    """

    required: tuple[str, ...]
    fields: Mapping[str, Kind]
    models: Mapping[str, Mapping[str, Kind]] = field(default_factory=dict)
    needs: tuple[Needs, ...] = ()
    files: Mapping[str, ImageFiles] = field(default_factory=dict)
    model_files: Mapping[str, Mapping[str, ImageFiles]] = field(default_factory=dict)

    def for_model(self, model: Any) -> Mapping[str, Kind]:
        """The kinds that hold for `model`; a model that is not named here has only the general ones."""
        return {**self.fields, **_for_model(self.models, model)}

    def files_for_model(self, model: Any) -> Mapping[str, ImageFiles]:
        """The same for files."""
        return {**self.files, **_for_model(self.model_files, model)}

    def parse(self, texts: Mapping[str, Any]) -> dict[str, Any]:
        """The values that the fields of a form mean; what has no rule stays as it is."""
        kinds = self.for_model(texts.get("model"))
        return {
            name: kinds[name].parse(value) if name in kinds and isinstance(value, str) else value
            for name, value in texts.items()
        }

    def check(self, fields: Mapping[str, Any], files: Files = NO_FILES) -> None:
        """Raise `InvalidFieldError` for the first of `fields` and `files` that breaks a rule.

        One that is not named here passes: providers add parameters.
        """
        kinds = self.for_model(fields.get("model"))
        for name in self.required:
            if name not in fields and not files.get(name):
                raise InvalidFieldError(name, f"{name} is missing: expected {self._expected(name)}")
        for name, value in fields.items():
            if name in kinds and files.get(name):
                raise InvalidFieldError(name, f"{name}: expected files or URLs, not both")
            if name in kinds and not kinds[name].allows(value):
                raise InvalidFieldError(name, f"{name}: expected {kinds[name]}, not {_show(value)}")
        for need in self.needs:
            if need.broken_by(fields):
                raise InvalidFieldError(
                    need.field, f"{need}, not {_show(fields.get(need.other, need.default))}"
                )
        for name, rule in self.files_for_model(fields.get("model")).items():
            rule.check(name, files)

    def _expected(self, name: str) -> str:
        either = [self.fields.get(name), self.files.get(name)]
        return "; or ".join(str(each) for each in either if each is not None)


def _for_model(named: Mapping[str, Mapping[str, Any]], model: Any) -> dict[str, Any]:
    fitting: dict[str, Any] = {}
    for pattern, kinds in named.items():
        if isinstance(model, str) and fnmatchcase(model, pattern):
            fitting |= kinds
    return fitting


def _show(value: Any) -> str:
    shown = repr(value)
    if len(shown) <= _SHOWN:
        return shown
    length = f" ({len(value)} characters)" if isinstance(value, str) else ""
    return f"{shown[:_SHOWN]}...{length}"
