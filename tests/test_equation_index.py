"""The index of equations in ARCHITECTURE.md is whole, and what it names cites them."""

import ast
import re

import pytest
from helpers import ROOT

PAPERS = {
    "DDPM": r"(?<!\w)DDPM|Ho et al\.",
    "iDDPM": r"iDDPM|Nichol & Dhariwal",
    "VDM": r"VDM|Kingma et al. 2021",
    "DDIM": r"DDIM|Song et al\. 2021",
    "Analytic-DPM": r"Analytic-DPM|Bao et al\. 2022",
    "OCM": r"(?<!\w)OCM|Ou et al\. 2025",
    "DPM-Solver++": r"DPM-Solver\+\+",
    "EDM": r"(?<!\w)EDM(?!2)|Karras et al\. 2022",
    "EDM2": r"(?<!\w)EDM2|Karras et al\. 2024",
    "PNDM": r"(?<!\w)PNDM",
}
PAPER = re.compile("|".join(f"(?P<p{i}>{pattern})" for i, pattern in enumerate(PAPERS.values())))
NUMBERS = r"(\d+(?:[-–]\d+)?(?:(?:, | and |/)\d+(?:[-–]\d+)?)*)"
CITED = re.compile(rf"\b(Eq|Algorithm|Theorem)s?\.? {NUMBERS}")
INDEXED = [
    *(("DDPM", "Eq", n) for n in range(1, 15)),
    *(("DDPM", "Algorithm", n) for n in (1, 2)),
    *(("iDDPM", "Eq", n) for n in range(15, 19)),
    *(("DDIM", "Eq", n) for n in (7, 12, 13, 14, 16)),
    ("Analytic-DPM", "Theorem", 1),
    *(("Analytic-DPM", "Eq", n) for n in (8, 9)),
    ("OCM", "Theorem", 1),
    ("DPM-Solver++", "Algorithm", 2),
    *(("EDM", "Algorithm", n) for n in (1, 2)),
    *(("EDM", "Eq", n) for n in (5, 7, 8)),
    *(("EDM2", "Eq", n) for n in (123, 126, 127, 151)),
    *(("EDM2", "Algorithm", n) for n in (2, 3)),
    ("VDM", "Eq", 17),
    ("PNDM", "Eq", 13),
]


def cited(text: str) -> set[tuple[str, str, int]]:
    """(paper, kind, number) of every equation in a text. An equation belongs to the last paper named before it."""
    text = " ".join(text.split())
    papers = [(match.start(), list(PAPERS)[int(str(match.lastgroup)[1:])]) for match in PAPER.finditer(text)]
    equations = set()
    for match in CITED.finditer(text):
        before = [paper for start, paper in papers if start < match.start()]
        for first, last in re.findall(r"(\d+)(?:[-–](\d+))?", match[2]):
            equations |= {(before[-1], match[1], n) for n in range(int(first), int(last or first) + 1)} if before else set()
    return equations


def index() -> list[tuple[str, str, str]]:
    """(equations, file, object), one object each."""
    rows = re.findall(r"^\| (.+?) \| (\S+\.py) \| (.+?) \|$", (ROOT / "ARCHITECTURE.md").read_text(), re.MULTILINE)
    return [(equations, file, name) for equations, file, names in rows for name in re.findall(r"`([\w.]+)`", names)]


def docstring(file: str, name: str) -> str:
    """Of a function or class, by its qualified name."""
    node: ast.AST = ast.parse((ROOT / "src" / "ddpm_lab" / file).read_text())
    for part in name.split("."):
        inner = [n for n in ast.iter_child_nodes(node) if isinstance(n, ast.FunctionDef | ast.ClassDef) and n.name == part]
        assert inner, f"{file} has no {name}"
        node = inner[0]
    assert isinstance(node, ast.FunctionDef | ast.ClassDef)
    return ast.get_docstring(node) or ""


def test_a_citation_is_read_with_its_paper():
    text = "σ² = β̃, DDPM Eq. 6-7; x̂_0 by Eq. 15. iDDPM Eq. 17 and 18. Bao et al. 2022, Theorem 1 and Eq. 9"
    ddpm = {("DDPM", "Eq", n) for n in (6, 7, 15)}
    analytic = {("Analytic-DPM", "Theorem", 1), ("Analytic-DPM", "Eq", 9)}
    assert cited(text) == ddpm | {("iDDPM", "Eq", 17), ("iDDPM", "Eq", 18)} | analytic
    assert cited("Eq. 5") == set()


def test_every_equation_is_indexed():
    assert set(INDEXED) - set().union(*(cited(equations) for equations, _, _ in index())) == set()


@pytest.mark.parametrize(("equations", "file", "name"), index(), ids=lambda text: text)
def test_what_is_indexed_cites_its_equation(equations, file, name):
    assert cited(equations)
    assert cited(equations) - cited(docstring(file, name)) == set()
