"""Templates are compiled once for all languages: their texts are looked up when they are filled in,
and compiling would be most of the cost of starting the web process."""

from functools import cache
from types import CodeType

from jinja2.bccache import Bucket, BytecodeCache


class CompiledTemplates(BytecodeCache):
    """What was compiled in this process, for environments that differ only by language."""

    def __init__(self) -> None:
        self._codes: dict[tuple[str, str, object], CodeType] = {}

    def load_bytecode(self, bucket: Bucket) -> None:
        bucket.code = self._codes.get(_key(bucket))

    def dump_bytecode(self, bucket: Bucket) -> None:
        if bucket.code is not None:
            self._codes[_key(bucket)] = bucket.code


def _key(bucket: Bucket) -> tuple[str, str, object]:
    """Code differs by whether everything is escaped."""
    return bucket.key, bucket.checksum, bucket.environment.autoescape


@cache
def compiled_templates() -> CompiledTemplates:
    """Return those of this process."""
    return CompiledTemplates()
