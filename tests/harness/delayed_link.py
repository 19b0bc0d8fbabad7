#!/usr/bin/env python3
"""A slow link: forwards IP packets between two TUN devices after a delay, in order or not.

usage: delayed_link.py DEVICE_A DEVICE_B DELAY_MS [REORDER_PERCENT]

For kernels without netem. It makes the devices, says "ready", and forwards until its standard input ends; then it
says how many packets it carried and dropped (a queue of its own is full), and the longest time that one was late.
"""
import fcntl
import heapq
import os
import random
import select
import struct
import sys
import time

TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
QUEUE = 20_000  # packets in flight: 100 ms at 300 MB/s


def device(name):
    file = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(file, TUNSETIFF, struct.pack("16sH", name.encode(), IFF_TUN | IFF_NO_PI))
    return file


def main():
    one, two = device(sys.argv[1]), device(sys.argv[2])
    delay = float(sys.argv[3]) / 1000
    reorder = float(sys.argv[4]) / 100 if len(sys.argv) > 4 else 0.0
    other = {one: two, two: one}
    queue, count, dropped, late, sequence = [], 0, 0, 0.0, 0
    poll = select.poll()
    for file in (one, two, 0):
        poll.register(file, select.POLLIN | select.POLLHUP)
    print("ready", flush=True)
    while True:
        now = time.monotonic()
        while queue and queue[0][0] <= now:
            due, _, to, packet = heapq.heappop(queue)
            late = max(late, now - due)
            count += 1
            try:
                os.write(to, packet)
            except OSError:
                dropped += 1
        wait = max(0.0, queue[0][0] - time.monotonic()) * 1000 if queue else 1000
        for file, _ in poll.poll(wait):
            if file == 0:
                if not os.read(0, 1):
                    print(f"carried {count} dropped {dropped} late {late * 1000:.0f} ms", flush=True)
                    return
                continue
            for _ in range(64):
                try:
                    packet = os.read(file, 65536)
                except OSError:
                    break
                if len(queue) >= QUEUE:
                    dropped += 1
                    continue
                # A packet that overtakes others travels half as long.
                span = delay / 2 if random.random() < reorder else delay
                sequence += 1
                heapq.heappush(queue, (time.monotonic() + span, sequence, other[file], packet))


main()
