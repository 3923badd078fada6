"""Asks moed one question over MQTT 3.1.1. MicroPython or CPython: sockets and json are all it needs."""
import json, os, socket, struct, time

BROKER, PORT, NODE, CLIENT = "broker.lan", 1883, "hall", "lamp"

def text(s):
    return struct.pack("!H", len(s.encode())) + s.encode()

def packet(kind, body):
    head, length = bytes([kind]), len(body)
    while length > 127:
        head, length = head + bytes([length & 127 | 128]), length >> 7
    return head + bytes([length]) + body

def exactly(sock, count):
    data = sock.recv(count) if count else b""
    if count and not data:
        raise OSError("the broker has gone")
    return data if len(data) == count else data + exactly(sock, count - len(data))

def receive(sock):
    kind, length, shift, digit = exactly(sock, 1)[0], 0, 0, 128
    while digit > 127:
        digit = exactly(sock, 1)[0]
        length, shift = length | (digit & 127) << shift, shift + 7
    return kind, exactly(sock, length)

def once(request, wait):
    to, sock = "moed/v1/node/" + NODE + "/c/" + CLIENT, socket.socket()
    try:
        sock.settimeout(wait)
        sock.connect(socket.getaddrinfo(BROKER, PORT)[0][-1])
        sock.sendall(packet(0x10, text("MQTT") + b"\x04\x02" + struct.pack("!H", 60) + text(CLIENT)))
        assert receive(sock)[1][1] == 0, "the broker does not let us in"
        sock.sendall(packet(0x82, b"\0\1" + text("moed/v1/c/" + CLIENT + "/r/" + request["id"]) + b"\1"))
        receive(sock)  # its SUBACK: from here on no answer is missed
        sock.sendall(packet(0x32, text(to + "/request") + b"\0\2" + json.dumps(request).encode()))
        while True:
            kind, body = receive(sock)
            start = 2 + struct.unpack("!H", body[:2])[0] if kind & 0xF0 == 0x30 else 0
            if kind & 6:  # QoS 1: acknowledged, or it comes again
                sock.sendall(packet(0x40, body[start:start + 2]))
            answer = json.loads(body[start + (2 if kind & 6 else 0):].decode()) if start else {"type": None}
            if answer["type"] in ("result", "error"):  # the node may forget what we have
                sock.sendall(packet(0x30, text(to + "/ack") + request["id"].encode()) + packet(0xE0, b""))
                return answer
    finally:
        sock.close()

def ask(prompt, wait=20, tries=10):  # the id is the question: sent again it is computed once, and its answer the same
    request = {"v": 1, "id": "".join("%02x" % b for b in os.urandom(6)), "prompt": prompt}
    for _ in range(tries):
        try:
            answer = once(request, wait)
            if not answer.get("retryable"):
                return answer
        except OSError:
            answer = {}
        time.sleep(answer.get("retry_after_ms", 1000) / 1000)
    raise OSError("no answer")
