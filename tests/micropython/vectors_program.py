"""On MicroPython: every golden vector."""

from tests.vectors import check

FOLDER = "/app/tests/vectors"

print("canon", check.check_canon(check.read(FOLDER, "canon.json")))
print("keys", check.check_keys(check.read(FOLDER, "keys.json")))
print("ids", check.check_ids(check.read(FOLDER, "ids.json")))
print("frames", check.check_frames(check.read(FOLDER, "frames.json")))
print("packer", check.check_packer(check.read(FOLDER, "packer.json"), ordered=False))
