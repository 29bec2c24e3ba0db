// Runs one Python program on MicroPython with device_sdk.wire, device_sdk.core, the scripted peers with their machine, and
// the golden vectors in its file system. Usage: node run.mjs ROOT PROGRAM. Exit code 1 and the trace on standard error if
// it raises.
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { loadMicroPython } from "@micropython/micropython-webassembly-pyscript";

const [root, program] = process.argv.slice(2);
const FOLDERS = ["device_sdk", "device_sdk/wire", "device_sdk/core", "tests/support", "tests/vectors"];
const FILES = /(^device_sdk\/.*\.py|^tests\/support\/(machine|(warehouse_)?peer|rig)\.py|^tests\/vectors\/(.*\.json|check\.py))$/;

const mp = await loadMicroPython({
  heapsize: 8 * 1024 * 1024,
  stdout: (line) => console.log(line),
  stderr: (line) => console.error(line),
});

function makeFolder(path) {
  let at = "";
  for (const part of path.split("/")) {
    at += "/" + part;
    if (!mp.FS.analyzePath(at).exists) mp.FS.mkdir(at);
  }
}

for (const folder of FOLDERS) {
  makeFolder("app/" + folder);
  for (const name of readdirSync(join(root, folder))) {
    const path = folder + "/" + name;
    if (FILES.test(path)) mp.FS.writeFile("/app/" + path, readFileSync(join(root, path)));
  }
}

try {
  mp.runPython("import sys\nsys.path.insert(0, '/app')\n");
  mp.runPython(readFileSync(program, "utf8"));
} catch (error) {
  console.error(error.message ?? String(error));
  process.exit(1);
}
