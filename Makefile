.PHONY: check test shapes slow test-all lint types lock oldest newest

check: lint types test  ## what a change must pass before review

lint:
	ruff format --check .
	ruff check .

types:
	pyright

test:
	OMP_NUM_THREADS=1 pytest -n 2

shapes:  ## the fast tests of the maths again, with every shape annotation checked, and their coverage
	OMP_NUM_THREADS=1 pytest -n 2 --jaxtyping-packages=ddpm_lab.core,ddpm_lab.likelihood,beartype.beartype tests/core \
		--cov=ddpm_lab.core --cov=ddpm_lab.likelihood --cov-report=term --cov-fail-under=95

slow:  ## tests that train; then the default run, as a user runs it, with both cores; sweeps on a real SLURM last
	OMP_NUM_THREADS=1 pytest -m slow -n 2 --timeout=1500 --ignore=tests/test_quality.py --ignore=tests/sweeps/test_real_slurm.py
	pytest -m slow -n 0 --timeout=1500 tests/test_quality.py
	OMP_NUM_THREADS=1 pytest -m slow -n 0 tests/sweeps/test_real_slurm.py

test-all: test shapes slow

oldest: choice = --resolution lowest-direct
newest: choice = "hydra-core>=1.4.0rc1" "omegaconf>=2.4.1rc1"
oldest newest:  ## the fast tests with the oldest, or the newest, versions that pyproject.toml allows
	uv venv --clear --quiet --python python3 .venv-$@
	uv pip install --quiet --python .venv-$@ $(choice) -e ".[test]"
	PATH="$(CURDIR)/.venv-$@/bin:$$PATH" $(MAKE) test

lock:  ## hashed versions of all dependencies
	uv pip compile pyproject.toml --universal --generate-hashes --no-header --quiet -o requirements.lock
