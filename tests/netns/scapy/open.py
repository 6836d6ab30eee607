"""Opens the ESP datagrams of a capture with the lines of a key log, by scapy and nothing of ours.

open.py KEYS CAPTURE: a line for each frame, its number and what became of it; of what is opened, also
how many changed copies were opened, which are its datagram with one bit of each byte flipped.
"""

import sys

from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.ipsec import ESP, IPSecIntegrityError, SecurityAssociation
from scapy.utils import PcapReader

CIPHERS = {
    "AES-GCM with 16 octet ICV [RFC4106]": "AES-GCM",
    "ChaCha20 with Poly1305 [RFC7634]": "CHACHA20-POLY1305",
}
HEADER_LEN = 16
TAG_LEN = 16


def associations(path):
    """What the lines of a key log say, by where datagrams go and by their slot."""
    found = {}
    with open(path, encoding="ascii") as lines:
        for line in lines:
            if not line.startswith('"'):
                continue
            _, _, to, spi, cipher, material, *_ = line.strip().strip('"').split('","')
            material = bytes.fromhex(material[2:])
            found[to, int(spi[2:7], 16)] = SecurityAssociation(
                ESP, spi=0, crypt_algo=CIPHERS[cipher], crypt_key=material
            )
    return found


def opened(association, datagram):
    """What is in the datagram, or nothing if its tag is wrong."""
    try:
        return association.crypt_algo.decrypt(
            association, ESP(datagram), association.crypt_key, TAG_LEN
        )
    except IPSecIntegrityError:
        return None


def verdict(known, frame):
    ip, udp = frame.getlayer(IP) or frame.getlayer(IPv6), frame.getlayer(UDP)
    datagram = bytes(udp.payload)
    if datagram[:4] == bytes(4):
        return "handshake"
    association = known.get((ip.dst, int.from_bytes(datagram[:4], "big") >> 12))
    if association is None:
        return "unknown"
    inside = opened(association, datagram)
    if inside is None:
        return "refused"
    changed = 0
    for place in range(len(datagram)):
        copy = bytearray(datagram)
        copy[place] ^= 1 << place % 8
        changed += opened(association, bytes(copy)) is not None
    sealed = len(datagram) - HEADER_LEN - TAG_LEN
    least = -(len(inside.data) + 2) % 4
    is_least = inside.padlen == least and len(inside.data) + 2 + least == sealed
    padding = "least" if is_least else inside.padlen
    return f"opened {inside.nh} padding={padding} changed={changed} {bytes(inside.data).hex()}"


known = associations(sys.argv[1])
for number, frame in enumerate(PcapReader(sys.argv[2]), 1):
    print(number, verdict(known, frame))
