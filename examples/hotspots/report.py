"""Prints what a run of the guest beside this script brought, for people.

    report.py RUN.json

The file holds the run as `cofferdam show --json` prints it when its machine is gone.
"""

import json
import sys

ROWS = 10


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        run = json.load(file)
    payload = run["result"]["payload"]
    print_hotspots(payload)
    print_skipped(payload["skipped"])
    print(payload["definition"])
    print()
    print_timeline(run)


def print_hotspots(payload):
    history = f"{payload['commits']} commits"
    if payload["cut"]:
        history += f" ({payload['cut']})"
    print(f"Hot spots of {plain(payload['repository'])} at {payload['head']}: "
          f"{payload['files']} files analysed, {history}")
    print()
    print(f"{'score':>12}  {'churn':>8}  {'complexity':>10}  file")
    for file in payload["hotspots"][:ROWS]:
        print(f"{file['score']:>12}  {file['churn']:>8}  {file['complexity']:>10}  "
              f"{plain(file['path'])}")
    print()


def print_skipped(skipped):
    parts = [f"{count} {kind.replace('_', ' ')}" for kind, count in skipped.items() if count]
    if parts:
        print("Not analysed: " + ", ".join(parts))


def print_timeline(run):
    """Each milestone, in milliseconds since the request was taken up."""
    start = run["submitted_at_ms"]
    milestones = [
        ("queued", run["submitted_at_ms"], "the request was on its stream"),
        ("booting", run["booting_at_ms"], "a worker had it and asked for a machine"),
        ("booted", run["running_at_ms"], "the machine was made"),
        ("result", run["settled_at_ms"], "the guest's result was published"),
        ("gone", run["closed_at_ms"], "the machine was deleted"),
    ]
    for name, at, what in milestones:
        when = "-" if at is None else f"{at - start} ms"
        print(f"{name:>12}  {when:>8}  {what}")


def plain(text):
    """Text from a guest, with nothing in it that a terminal would act on."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


if __name__ == "__main__":
    main()
