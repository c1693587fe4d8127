"""The web applications of the example shop: one program, started as app1, app2 or app3.

app1 takes orders and keeps them in PostgreSQL, app2 shows the catalogue, app3 shows how often each was visited.
Redis counts the visits. When Redis is away the shop goes on without figures; when PostgreSQL is away an order waits
for it for a while and is then refused, never lost silently and never stored twice.
"""

import html
import json
import os
import queue
import signal
import socket
import threading
import time
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import psycopg2
import redis

NAMES = ("app1", "app2", "app3")
CATALOGUE = (
    {"item": "sextant", "price": 240},
    {"item": "compass", "price": 95},
    {"item": "chart of the coast", "price": 30},
    {"item": "brass telescope", "price": 180},
)
CATALOGUE_SECONDS = 10  # how long a cache may keep the catalogue
MAX_BODY_BYTES = 4096
MAX_ITEM_LETTERS = 200
MAX_LISTED_ORDERS = 100
MAX_CONNECTIONS = 64
IDLE_SECONDS = 75  # longer than a proxy keeps an idle connection, so that the proxy closes first
REDIS_SECONDS = 0.5
DATABASE_SECONDS = 10  # how long an order waits for the database
DATABASE_PAUSE_SECONDS = 0.2
MAX_IDLE_DATABASE_CONNECTIONS = 4


class Unavailable(Exception):
    """The database did not answer in time."""


class Visits:
    """Counts visits in Redis; without Redis there are no figures."""

    def __init__(self, host):
        self._redis = redis.Redis(
            host=host,
            socket_timeout=REDIS_SECONDS,
            socket_connect_timeout=REDIS_SECONDS,
            max_connections=MAX_CONNECTIONS,
        )

    def count(self, name):
        try:
            return self._redis.incr(f"visits:{name}")
        except redis.RedisError:
            return None

    def all(self):
        try:
            values = self._redis.mget([f"visits:{name}" for name in NAMES])
        except redis.RedisError:
            return None
        return {name: int(value or 0) for name, value in zip(NAMES, values)}


class Orders:
    """Keeps orders in PostgreSQL. An order has its key before it is sent, so that sending it again is harmless."""

    def __init__(self, **connection):
        self._connection = connection
        self._idle = queue.LifoQueue(MAX_IDLE_DATABASE_CONNECTIONS)

    def add(self, item):
        key = str(uuid.uuid4())
        rows = self._run(
            "WITH new AS (INSERT INTO orders (id, item) VALUES (%s, %s) ON CONFLICT (id) DO NOTHING "
            "RETURNING id, item, created) SELECT * FROM new UNION SELECT id, item, created FROM orders WHERE id = %s",
            (key, item, key),
        )
        return rows[0]

    def latest(self):
        return self._run(
            "SELECT id, item, created FROM orders ORDER BY created DESC, id LIMIT %s", (MAX_LISTED_ORDERS,)
        )

    def _run(self, statement, values):
        deadline = time.monotonic() + DATABASE_SECONDS
        while True:
            connection = None
            try:
                connection = self._take()
                with connection, connection.cursor() as cursor:
                    cursor.execute(statement, values)
                    rows = cursor.fetchall()
                self._give_back(connection)
                return [{"id": str(key), "item": item, "created": created.isoformat()} for key, item, created in rows]
            except psycopg2.Error as error:
                if connection is not None:
                    connection.close()
                if time.monotonic() >= deadline:
                    print(f"app1 gives up on the database: {error}".rstrip(), flush=True)
                    raise Unavailable from error
                time.sleep(DATABASE_PAUSE_SECONDS)

    def _take(self):
        try:
            return self._idle.get_nowait()
        except queue.Empty:
            return psycopg2.connect(connect_timeout=2, **self._connection)

    def _give_back(self, connection):
        try:
            self._idle.put_nowait(connection)
        except queue.Full:
            connection.close()


class Server(ThreadingHTTPServer):
    """Serves a bounded number of connections, and ends without cutting an answer short."""

    daemon_threads = False
    request_queue_size = 128

    def __init__(self, address, handler):
        super().__init__(address, handler)
        self.draining = False
        self._slots = threading.BoundedSemaphore(MAX_CONNECTIONS)
        self._open = set()
        self._lock = threading.Lock()

    def process_request(self, request, client_address):
        self._slots.acquire()
        with self._lock:
            self._open.add(request)
        super().process_request(request, client_address)

    def process_request_thread(self, request, client_address):
        try:
            super().process_request_thread(request, client_address)
        finally:
            with self._lock:
                self._open.discard(request)
            self._slots.release()

    def drain(self, seconds):
        """Says "not ready", serves on while the news spreads, then stops once every answer under way is out."""
        self.draining = True
        time.sleep(seconds)
        self.shutdown()
        with self._lock:
            for connection in self._open:
                try:
                    connection.shutdown(socket.SHUT_RD)  # an idle reader ends; a writer finishes first
                except OSError:
                    pass  # closed by the other side meanwhile


class Handler(BaseHTTPRequestHandler):
    """Answers one connection's requests."""

    protocol_version = "HTTP/1.1"
    server_version = "timonel-shop"
    timeout = IDLE_SECONDS
    # Set by `serve`:
    name = None
    visits = None
    orders = None

    def do_GET(self):
        path = self.path.partition("?")[0].rstrip("/")
        if path == "/healthz":
            return self._json(503 if self.server.draining else 200, {"ready": not self.server.draining})
        page = {
            "app1": {"/app1": self._front, "/app1/orders": self._list_orders},
            "app2": {"/app2": self._front, "/app2/products": self._products},
            "app3": {"/app3": self._front, "/app3/visits": self._visits},
        }[self.name].get(path)
        if page is None:
            return self._json(404, {"error": f"{self.name} has no page {path or '/'}"})
        return page(self.visits.count(self.name))

    do_HEAD = do_GET

    def do_POST(self):
        item, refusal = self._read_item()
        if refusal:
            # The body may be unread, so that what follows on this connection is not a request.
            self.close_connection = True
            return self._json(*refusal)
        self.visits.count(self.name)
        try:
            return self._json(201, self.orders.add(item))
        except Unavailable:
            return self._json(503, {"error": "the database is away; try again"})

    def _read_item(self):
        if self.name != "app1" or self.path.rstrip("/") != "/app1/orders":
            return None, (404, {"error": "orders go to /app1/orders"})
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal():
            return None, (411, {"error": "an order needs a Content-Length"})
        if int(length) > MAX_BODY_BYTES:
            return None, (413, {"error": f"an order has at most {MAX_BODY_BYTES} bytes"})
        try:
            item = json.loads(self.rfile.read(int(length)))["item"]
        except (ValueError, KeyError, TypeError):
            item = None
        if not isinstance(item, str) or not 0 < len(item) <= MAX_ITEM_LETTERS or "\0" in item:
            return None, (400, {"error": 'an order is {"item": "..."}'})
        return item, None

    def _list_orders(self, _visit):
        try:
            self._json(200, self.orders.latest())
        except Unavailable:
            self._json(503, {"error": "the database is away; try again"})

    def _products(self, _visit):
        self._json(200, CATALOGUE, cache=f"max-age={CATALOGUE_SECONDS}")

    def _visits(self, _visit):
        figures = self.visits.all()
        self._json(503 if figures is None else 200, figures or {"error": "no figures while Redis is away"})

    def _front(self, visit):
        text, link, cache = {
            "app1": ("Orders", "/app1/orders", "no-store"),
            "app2": ("Catalogue", "/app2/products", f"max-age={CATALOGUE_SECONDS}"),
            "app3": ("Visits", "/app3/visits", "no-store"),
        }[self.name]
        shown = "not counted" if visit is None else str(visit)
        page = (
            f"<!doctype html><title>{text}</title><h1>{text}</h1>"
            f"<p>{self.name}, visit {shown}, answered by {html.escape(socket.gethostname())}.</p>"
            f'<p><a href="{link}">{link}</a></p>'
            + "".join(f'<a href="/{name}">{name}</a> ' for name in NAMES)
        )
        self._send(200, "text/html; charset=utf-8", page.encode(), cache)

    def _json(self, status, value, cache="no-store"):
        self._send(status, "application/json", (json.dumps(value) + "\n").encode(), cache)

    def _send(self, status, kind, body, cache):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", cache)
        self.send_header("X-Served-By", socket.gethostname())
        if self.server.draining or self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, text, *values):
        if not self.path.startswith("/healthz"):
            print(f"{self.name} {self.address_string()} {text % values}", flush=True)

    def log_request(self, code="-", size="-"):
        self.log_message("%s %s", self.requestline, int(code))


def serve():
    """Runs until SIGTERM or SIGINT has been answered by an orderly end."""
    Handler.name = os.environ["SHOP_APP"]
    if Handler.name not in NAMES:
        raise SystemExit(f"SHOP_APP is one of {', '.join(NAMES)}, not {Handler.name}")
    Handler.visits = Visits(os.environ.get("REDIS_HOST", "redis"))
    Handler.orders = Orders(
        host=os.environ.get("PGHOST", "postgres"),
        user=os.environ.get("PGUSER", "postgres"),
        password=os.environ.get("PGPASSWORD", ""),
        dbname=os.environ.get("PGDATABASE", "shop"),
    )
    drain_seconds = float(os.environ.get("DRAIN_SECONDS", "5"))
    server = Server(("", int(os.environ.get("PORT", "8080"))), Handler)
    drainer = threading.Thread(target=server.drain, args=(drain_seconds,))

    def stop(_signal, _frame):
        if not server.draining:
            server.draining = True
            drainer.start()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    print(f"{Handler.name} listens on port {server.server_port}", flush=True)
    server.serve_forever(poll_interval=0.2)
    drainer.join()
    server.server_close()
    print(f"{Handler.name} has ended in order", flush=True)


if __name__ == "__main__":
    serve()
