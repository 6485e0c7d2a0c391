"""Fetch some pages, four at a time. The pages are served from here; at the last address nobody listens."""

from __future__ import annotations

import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.error import URLError
from urllib.request import ProxyHandler, build_opener

from parallelkit import Pool

# The loopback address is not behind a proxy, whatever the environment says.
opener = build_opener(ProxyHandler({}))


def scrape(url: str) -> None:
    """Fetch a page and say how it went."""
    try:
        with opener.open(url, timeout=20) as response:
            print(f"<Response [{response.status}]>")
    except URLError:
        print("Error Occured", url)
    finally:
        print("URL", url, "Scraped")


class Page(BaseHTTPRequestHandler):
    """The same short page at each address."""

    def do_GET(self) -> None:
        """Answer."""
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, format: str, *args: object) -> None:
        """Be quiet."""


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", 0), Page)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    # A socket that has an address and does not listen: who connects is refused.
    nobody = socket.socket()
    nobody.bind(("127.0.0.1", 0))

    urls = [f"http://127.0.0.1:{server.server_port}/{page}" for page in ("baidu", "meituan", "csdn")]
    urls.append(f"http://127.0.0.1:{nobody.getsockname()[1]}/")
    with Pool(4) as pool:
        print(pool.map(scrape, urls))

    server.shutdown()
    server.server_close()
    nobody.close()
