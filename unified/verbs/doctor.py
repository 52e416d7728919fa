"""`unified doctor`: is all well here?"""

from __future__ import annotations

import sys

from unified import terminal
from unified.options import (
    AsJson,
    Device,
    Model,
)
from unified.verbs.common import print_json, status


def doctor(model: Model = None, device: Device = None, as_json: AsJson = False) -> int:
    """Check that all is well here: packages, device, weights, a drawing, a question.

    Each line says ok, warn or FAIL and, where need be, what to do. Exit status 1 when one fails.
    """
    from unified.doctor import MARKS, examine

    findings = examine(model, device, terminal.ability(sys.stdout))
    checks, doing = [], "Checking"
    while True:
        with status(doing):
            check = next(findings, None)
        if check is None:
            break
        checks.append(check)
        doing = check.next
        if not as_json:
            print(f"{MARKS[check.status]} {check.name}: {check.found}", flush=True)
            if check.advice:
                print(f"     {check.advice}", flush=True)
    failed = any(check.status == "fail" for check in checks)
    if as_json:
        print_json({"ok": not failed, "checks": [check.row() for check in checks]})
    return int(failed)
