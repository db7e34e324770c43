"""A guest of cofferdam: finds the hot spots of a repository, churn times complexity per file.

It runs inside a throw-away machine, with nothing but Python and git, no network, and beside it the
files of its request: the repository's history as a git bundle, and the wheels of the analyser. It
takes its input from cofferdam, works, and posts one JSON value back. `take_input` and `post_result`
are all that another guest would need of it.
"""

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE / "repository.git"
# Larger files are generated or data; they are counted as skipped.
LARGEST_FILE_BYTES = 1 << 20
# What is not analysed this long before the deadline is counted as skipped too.
SPARE_S = 15
HOTSPOTS = 50

DEFINITION = (
    "score = churn x complexity; churn: lines added and deleted by all commits, renames followed;"
    " complexity: cyclomatic, summed over the functions of the file as it is now"
)


def main():
    began = time.monotonic()
    asked = take_input()
    boundary = unpack_history()
    churn, commits = read_churn(boundary)
    files, skipped = measure(churn)
    files.sort(key=lambda file: (-file["score"], file["path"]))
    post_result(
        {
            "repository": asked["repository"],
            "cut": asked["cut"],
            "head": git("rev-parse", "--short=12", "HEAD").decode().strip(),
            "commits": commits,
            "files": len(files),
            "skipped": skipped,
            "definition": DEFINITION,
            "hotspots": files[:HOTSPOTS],
            "worked_ms": round((time.monotonic() - began) * 1000),
        }
    )


def take_input():
    """The request's `input`."""
    with call(urllib.request.Request(os.environ["SANDBOX_INPUT_URL"])) as answer:
        return json.load(answer)


def post_result(result):
    """Posts the one result. Posting the same bytes again is harmless, so a lost answer is retried."""
    request = urllib.request.Request(
        os.environ["SANDBOX_RESULT_URL"],
        data=json.dumps(result).encode(),
        headers={"Content-Type": "application/json"},
    )
    with call(request) as answer:
        print(f"posted the result: {answer.status} {answer.read().decode()}")


def call(request):
    """Calls cofferdam with the run's token; again, a little later, when it cannot answer now."""
    request.add_header("Authorization", "Bearer " + os.environ["SANDBOX_RUN_TOKEN"])
    # The endpoint is reached directly, whatever proxies the environment names.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    pause_s = 0.1
    while True:
        try:
            return opener.open(request, timeout=10)
        except urllib.error.HTTPError as refusal:
            if refusal.code < 500 or seconds_left() < pause_s:
                raise
        except OSError:
            if seconds_left() < pause_s:
                raise
        time.sleep(pause_s)
        pause_s = min(pause_s * 2, 5)


def seconds_left():
    return float(os.environ["SANDBOX_DEADLINE"]) - time.time()


def git(*arguments, **options):
    """What git prints, in bytes."""
    command = ["git", "-C", str(REPOSITORY), *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, **options).stdout


def unpack_history():
    """Unpacks the bundle, and gives the commits that a cut history begins after."""
    # Neither this machine's settings nor the repository's may change what is read.
    os.environ.update(GIT_CONFIG_NOSYSTEM="1", GIT_CONFIG_GLOBAL="/dev/null")
    subprocess.run(["git", "init", "--quiet", "--bare", str(REPOSITORY)], check=True)
    # Names the commits whose parents were left out, so that git does not miss them.
    shallow = ""
    if (HERE / "shallow").exists():
        shallow = (HERE / "shallow").read_text()
        (REPOSITORY / "shallow").write_text(shallow)
    git("fetch", "--quiet", str(HERE / "history.bundle"), "HEAD:refs/heads/main")
    git("symbolic-ref", "HEAD", "refs/heads/main")
    return shallow.split()


def read_churn(boundary):
    """Lines added and deleted, and commits, for each file by its present name; and all commits."""
    # The first commit of a cut history would count every file as new, so it is left out.
    cut = [f"^{commit}" for commit in boundary]
    log = ["log", "--no-merges", "--numstat", "-M", "-z", "--format=%x01", "HEAD", *cut]
    present_name = {}
    churn = {}
    commits = 0
    # A commit's mark and a file's numbers end in a zero byte; a renamed file's two names follow.
    parts = iter(git(*log).split(b"\0"))
    for part in parts:
        part = part.lstrip(b"\n")
        while part.startswith(b"\x01"):
            commits += 1
            part = part[1:].lstrip(b"\n")
        if not part:
            continue
        added, deleted, path = part.split(b"\t", 2)
        if not path:
            old, path = next(parts), next(parts)
            # The newest commits come first: what was older went by the older name.
            present_name[old] = present_name.get(path, path)
        path = present_name.get(path, path)
        lines, touched = churn.get(path, (0, 0))
        if added != b"-":  # a binary file has no lines
            lines += int(added) + int(deleted)
        churn[path] = (lines, touched + 1)
    return churn, commits


def measure(churn):
    """Complexity and score of each file that the analyser reads, the busiest first."""
    sys.path[:0] = [str(wheel) for wheel in sorted(HERE.glob("*.whl"))]
    import lizard
    from lizard_languages import get_reader_for

    skipped = {"other_language": 0, "too_large": 0, "not_understood": 0, "out_of_time": 0}
    files = []
    contents = subprocess.Popen(
        ["git", "-C", str(REPOSITORY), "cat-file", "--batch"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    for path, blob, size in sorted(blobs(), key=lambda file: -churn.get(file[0], (0, 0))[0]):
        name = path.decode(errors="replace")
        if get_reader_for(name) is None:
            skipped["other_language"] += 1
        elif size > LARGEST_FILE_BYTES:
            skipped["too_large"] += 1
        elif seconds_left() < SPARE_S:
            skipped["out_of_time"] += 1
        else:
            text = read_blob(contents, blob).decode(errors="replace")
            try:
                functions = lizard.analyze_file.analyze_source_code(name, text).function_list
            except Exception as fault:  # whatever strangers' code makes an analyser do
                print(f"{name!r} is not understood: {fault!r}", file=sys.stderr)
                skipped["not_understood"] += 1
                continue
            lines, touched = churn.get(path, (0, 0))
            complexity = sum(function.cyclomatic_complexity for function in functions)
            files.append(
                {
                    "path": name,
                    "churn": lines,
                    "commits": touched,
                    "complexity": complexity,
                    "functions": len(functions),
                    "score": lines * complexity,
                }
            )
    contents.stdin.close()
    contents.wait()
    return files, skipped


def blobs():
    """Path, id and size of each ordinary file of the newest commit."""
    for line in git("ls-tree", "-r", "-l", "-z", "HEAD").split(b"\0"):
        if line.startswith(b"100"):
            about, path = line.split(b"\t", 1)
            _, _, blob, size = about.split()
            yield path, blob, int(size)


def read_blob(contents, blob):
    contents.stdin.write(blob + b"\n")
    contents.stdin.flush()
    size = int(contents.stdout.readline().split()[2])
    return contents.stdout.read(size + 1)[:size]


if __name__ == "__main__":
    main()
