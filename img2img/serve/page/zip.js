"use strict";
// A zip of files that are stored as they are, after the APPNOTE of PKWARE.

const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, n) => {
  for (let k = 0; k < 8; k++) n = n & 1 ? 0xedb88320 ^ (n >>> 1) : n >>> 1;
  return n >>> 0;
});

function crc32(bytes) {
  let crc = 0xffffffff;
  for (let i = 0; i < bytes.length; i++) crc = CRC_TABLE[(crc ^ bytes[i]) & 255] ^ (crc >>> 8);
  return (crc ^ 0xffffffff) >>> 0;
}

function zipRecord(layout) {
  const size = layout.reduce((sum, [bytes]) => sum + bytes, 0);
  const view = new DataView(new ArrayBuffer(size));
  let at = 0;
  for (const [bytes, value] of layout) {
    if (bytes === 2) view.setUint16(at, value, true);
    else view.setUint32(at, value, true);
    at += bytes;
  }
  return view.buffer;
}

/** The zip of files {name, blob}, as a Blob; below 4 GB, which browsers hold anyway. */
async function zipped(files) {
  const UTF8 = 0x0800;
  const VERSION = 20;
  const DATE = (46 << 9) | (1 << 5) | 1; // times of results mean nothing
  const parts = [];
  const directory = [];
  let offset = 0;
  for (const { name, blob } of files) {
    const bytes = new TextEncoder().encode(name);
    const crc = crc32(new Uint8Array(await blob.arrayBuffer()));
    const facts = [[2, VERSION], [2, UTF8], [2, 0], [2, 0], [2, DATE], [4, crc], [4, blob.size], [4, blob.size], [2, bytes.length], [2, 0]];
    const head = zipRecord([[4, 0x04034b50], ...facts]);
    directory.push(zipRecord([[4, 0x02014b50], [2, VERSION], ...facts, [2, 0], [2, 0], [2, 0], [4, 0], [4, offset]]), bytes);
    parts.push(head, bytes, blob);
    offset += head.byteLength + bytes.length + blob.size;
  }
  const length = directory.reduce((sum, part) => sum + part.byteLength, 0);
  if (offset + length > 0xffffffff) throw new Error("More than 4 GB: download the files one by one.");
  const end = [[4, 0x06054b50], [2, 0], [2, 0], [2, files.length], [2, files.length], [4, length], [4, offset], [2, 0]];
  return new Blob([...parts, ...directory, zipRecord(end)], { type: "application/zip" });
}
