"""A program for one contestant at one workload: `python -m suite.host WORKLOAD CONTESTANT`.

It says when it is ready, and then measures a round for each line that it is sent; its answers are lines of
JSON. It is small, as workers that are spawned import it, too.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
import warnings


def main() -> None:
    """Open the contestant, and measure as often as one is told."""
    # What the libraries and the workers print is no answer.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.close(silence)
    warnings.simplefilter("ignore")

    from suite.groups import named
    from suite.workloads import Instead, Seat

    workload = named(sys.argv[1])
    contestant = next(one for one in workload.contestants if one.id == sys.argv[2])
    try:
        with workload.session(Seat(contestant)) as once:
            print(json.dumps({"ready": True}), file=answers)
            for _ in sys.stdin:
                try:
                    figure = once()
                except Instead as other:  # said before the pool is closed, which may hang then
                    print(json.dumps({"instead": str(other)}), file=answers)
                    break
                print(json.dumps({"seconds": figure.seconds, "extras": figure.extras}), file=answers)
        print(json.dumps({"ended": True}), file=answers)
    except BaseException as error:
        traceback.print_exc()
        print(json.dumps({"instead": f"fails ({type(error).__name__})"}), file=answers)


if __name__ == "__main__":
    main()
