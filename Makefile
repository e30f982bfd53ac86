.PHONY: check test shapes slow test-all lint types lock

check: lint types test  ## what a change must pass before review

lint:
	ruff format --check .
	ruff check .

types:
	pyright

test:
	OMP_NUM_THREADS=1 pytest -n 2

shapes:  ## the fast tests of the maths once more, with every shape annotation checked, and how much of it they cover
	OMP_NUM_THREADS=1 pytest -n 2 --jaxtyping-packages=ddpm_lab.core,beartype.beartype tests/core \
		--cov=ddpm_lab.core --cov-report=term --cov-fail-under=95

slow:  ## those that train for minutes; the promise of the README as a user runs it, with both cores
	OMP_NUM_THREADS=1 pytest -m slow -n 2 --timeout=1500 --ignore=tests/test_quality.py
	pytest -m slow -n 0 --timeout=1500 tests/test_quality.py

test-all: test shapes slow

lock:  ## hashed versions of everything the program needs
	uv pip compile pyproject.toml --universal --generate-hashes --no-header --quiet -o requirements.lock
