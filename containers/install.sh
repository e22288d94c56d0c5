#!/bin/sh
# Makes /opt/axon in a build stage. `sh install.sh packages`: what AXON needs, less what only tests or compiles;
# `sh install.sh axon`: AXON itself, and the list of all contents. Apart, so that a change of AXON's code installs only
# that.
set -eu
export VIRTUAL_ENV=/opt/axon UV_NO_CACHE=1 UV_LINK_MODE=copy
packages=/opt/axon/lib/python3.11/site-packages

case "$1" in
packages)
    python3 -m venv --without-pip /opt/axon
    /build/bin/uv pip install --no-deps --require-hashes -r /requirements.lock -r /requirements-torch.lock
    # 0.4 GB that no step reads: test suites, torch's headers and test programs, MLflow's web page.
    find "$packages" -type d -name tests -prune -exec rm -r {} +
    rm -rf "$packages/torch/test" "$packages/torch/include" "$packages/mlflow/server/js"
    find "$packages/torch/bin" -type f ! -name torch_shm_manager -delete
    find "$packages" -name '*.a' -delete
    ;;
axon)
    /build/bin/uv pip install --no-deps /wheels/*.whl
    /build/bin/uv pip check
    # A read-only image cannot keep bytecode later, and compiling takes a step three times as long to start. So that of
    # all that steps import is made now, by importing it: half of what compiling every file would add.
    cat > /imports.py <<'PYTHON'
import importlib, pkgutil
import axon
for name in ("kfp.dsl.executor_main", "mlflow.pyfunc", "dvc.api", "dvc_s3", "boto3"):
    importlib.import_module(name)
for module in pkgutil.walk_packages(axon.__path__, "axon."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
PYTHON
    MPLCONFIGDIR=/tmp PYTHONDONTWRITEBYTECODE='' /opt/axon/bin/python /imports.py
    rm -f /opt/axon/.lock
    /build/bin/cyclonedx-py environment --output-reproducible --output-format JSON --output-file /opt/axon/sbom.cdx.json /opt/axon/bin/python
    ;;
esac
