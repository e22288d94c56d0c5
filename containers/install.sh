#!/bin/sh
# Makes /opt/axon in a build stage: AXON and what it needs, nothing that only tests or compiles, and the list of all of it.
set -eu
export VIRTUAL_ENV=/opt/axon UV_NO_CACHE=1 UV_LINK_MODE=copy
python3 -m venv --without-pip /opt/axon
/build/bin/uv pip install --no-deps --require-hashes -r /requirements.lock -r /requirements-torch.lock
/build/bin/uv pip install --no-deps /wheels/*.whl
/build/bin/uv pip check

# 0.4 GB that no step reads: test suites, torch's headers and command-line programs, MLflow's web page.
packages=/opt/axon/lib/python3.11/site-packages
find "$packages" -type d -name tests -prune -exec rm -r {} +
rm -r "$packages/torch/test" "$packages/torch/include" "$packages/torch/bin" "$packages/mlflow/server/js"
find "$packages" -name '*.a' -delete

# A read-only image cannot keep bytecode later; without, every step would compile all that it imports.
/opt/axon/bin/python -m compileall -q -j 0 --invalidation-mode unchecked-hash "$packages" || true
/build/bin/cyclonedx-py environment --output-reproducible --output-format JSON --output-file /opt/axon/sbom.cdx.json /opt/axon/bin/python
