#!/usr/bin/env python3
"""A code interpreter: runs snippets of Python, each in a machine of its own, and prints how long they took.

    examples/interpreter/interpreter.py [--snippets N] [--image IMAGE] [--show]

It needs a running stack (`cofferdam up`) and `cofferdam` on the PATH. Requests go in as JSON lines, results
come out as JSON lines; any Redis client could do the same with XADD and XREADGROUP.
"""

import argparse
import json
import statistics
import subprocess
import sys

SNIPPETS = [
    "print(sum(range(1000)))",
    "import math; print(math.factorial(20))",
    "print('grüße'.upper())",
    "import sys; print('to stderr', file=sys.stderr)",
    "1 / 0",
    "import os; print(sorted(k for k in os.environ if k.startswith('SANDBOX_')))",
    "print(open('/etc/hostname').read() if __import__('os').path.exists('/etc/hostname') else 'no file')",
    "import json; print(json.dumps({'a': [1, 2, 3]}))",
    "import random; random.seed(1); print(random.random())",
    "print('x' * 100_000)",
]


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    arguments.add_argument("--snippets", type=int, default=50)
    arguments.add_argument("--image", default="host")
    arguments.add_argument("--show", action="store_true", help="print what each snippet wrote")
    given = arguments.parse_args()

    snippets = [SNIPPETS[n % len(SNIPPETS)] for n in range(given.snippets)]
    requests = [
        {"image": given.image, "cmd": ["python3", "-c", snippet], "capture": {"stdout_bytes": 10_000},
         "timeout_s": 20, "metadata": {"snippet": snippet}}
        for snippet in snippets
    ]
    lines = "".join(json.dumps(request) + "\n" for request in requests)
    done = subprocess.run(["cofferdam", "submit", "-", "--wait", "--json"], input=lines,
                          stdout=subprocess.PIPE, text=True)
    results = [json.loads(line) for line in done.stdout.splitlines()]
    results = [result for result in results if "outcome" in result]
    if len(results) != len(requests):
        sys.exit(f"{len(requests)} snippets, and {len(results)} results")

    took, failed = [], 0
    for result in results:
        payload = result["payload"]
        if result["outcome"] != "completed":
            sys.exit(f"{result['run_id']}: {result['outcome']}: {result['reason']}")
        failed += payload["exit_code"] != 0
        took.append(result["settled_at_ms"] - result["booting_at_ms"])
        if given.show:
            print(f">>> {result['metadata']['snippet']}")
            print((payload["stdout"] or "")[:200] + (payload["stderr"] or "")[-200:], end="")
    took.sort()
    p99 = took[max(0, -(-len(took) * 99 // 100) - 1)]
    print(f"{len(took)} snippets, {failed} of them failed; from boot to result: "
          f"p50 {statistics.median(took):.0f} ms, p99 {p99} ms")


main()
