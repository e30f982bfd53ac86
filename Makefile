.PHONY: check test slow test-all lint types lock oldest newest soak tables

check: lint types test  ## what a change must pass before review

lint:
	ruff format --check .
	ruff check .

types:
	pyright

annotated = OMP_NUM_THREADS=1 pytest tests/core --jaxtyping-packages=ddpm_lab.core,ddpm_lab.likelihood,beartype.beartype \
	-m "not slow and not soak and not gpu and not long"
with_slurm = OMP_NUM_THREADS=1 pytest -m slow -n 0 tests/sweeps/test_real_slurm.py

test:  ## fast tests; those of the maths with every shape annotation checked
	OMP_NUM_THREADS=1 pytest --ignore=tests/core
	$(annotated)

slow:  ## tests that train, a fifth of the default run first and beside the others, or make the same calls thousands of times; then sweeps on a real SLURM, which mostly wait
	OMP_NUM_THREADS=1 pytest -m "(slow or long) and not soak" --timeout=1500 --ignore=tests/sweeps/test_real_slurm.py
	$(with_slurm)

test-all:  ## what `make test` and `make slow` run, the first half of each at once
	OMP_NUM_THREADS=1 pytest -m "(slow or long or not core) and not soak and not gpu" --timeout=1500 --ignore=tests/sweeps/test_real_slurm.py
	$(annotated)
	$(with_slurm)

soak:  ## the longest tests, among them the whole default run; 10,000 synthetic sweeps for compare.py; runs, sweeps and evaluations that are killed 100 times and given again
	OMP_NUM_THREADS=1 pytest -m soak --timeout=1500
	OMP_NUM_THREADS=1 pytest tests/core --cov=ddpm_lab.core --cov=ddpm_lab.likelihood --cov-report=term --cov-fail-under=95
	OMP_NUM_THREADS=1 python tests/simulations.py
	OMP_NUM_THREADS=1 python tests/soak.py

oldest: choice = --resolution lowest-direct
newest: choice = "hydra-core>=1.4.0rc1" "omegaconf>=2.4.1rc1"
oldest newest:  ## the fast tests with the oldest, or the newest, versions that pyproject.toml allows
	uv venv --clear --quiet --python python3 .venv-$@
	uv pip install --quiet --python .venv-$@ $(choice) -e ".[test]"
	PATH="$(CURDIR)/.venv-$@/bin:$$PATH" $(MAKE) test
	PATH="$(CURDIR)/.venv-$@/bin:$$PATH" OMP_NUM_THREADS=1 pytest tests/core -m "long and not slow and not soak"

tables:  ## the numbers of docs/variances.md and the runs of studies/chance.py, over hours and several sittings; PHOTOGRAPHS=FILE.npz for the second half
	python studies/gaussian.py
	python studies/chance.py
	python studies/variance.py digits
	python studies/variance_tables.py outputs/variance/digits
	$(if $(PHOTOGRAPHS),python studies/variance.py photographs $(PHOTOGRAPHS))
	$(if $(PHOTOGRAPHS),python studies/variance_tables.py outputs/variance/photographs)

lock:  ## hashed versions of all dependencies
	uv pip compile pyproject.toml --universal --generate-hashes --no-header --quiet -o requirements.lock
