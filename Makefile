.PHONY: check test shapes test-all lint types lock

check: lint types test  ## what a change must pass before review

lint:
	ruff format --check .
	ruff check .

types:
	pyright

test:
	OMP_NUM_THREADS=1 pytest -n 2 --cov=ddpm_lab.core --cov-report=term --cov-fail-under=95

shapes:  ## the fast tests of the maths once more, with every shape annotation checked
	OMP_NUM_THREADS=1 pytest -n 2 --jaxtyping-packages=ddpm_lab.core,beartype.beartype tests/core

test-all: test shapes  ## with the slow tests, one after another: some train for minutes
	pytest -m slow -n 0 --timeout=1500

lock:  ## hashed versions of everything the program needs
	uv pip compile pyproject.toml --universal --generate-hashes --no-header --quiet -o requirements.lock
