"""What stands in the doctor's way is one line, never a traceback."""

from __future__ import annotations

import pytest

from service.cli.context import CommandError
from service.cli.doctor import _door
from service.settings import EndpointSettings

END = EndpointSettings(host="127.0.0.1", port=8883)


@pytest.mark.parametrize("content", [None, "no certificate"], ids=["missing", "damaged"])
def test_a_ca_that_cannot_be_used_is_named(tmp_path, content):
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_text(content)
    with pytest.raises(CommandError, match=r"ca\.pem: cannot be used as a CA"):
        _door(END, str(path))
