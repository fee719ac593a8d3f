// Messages as bytes: their checksums, and requests that are not messages. protobufjs reads over the end of a string and
// over bytes that are not UTF-8; protobuf does not allow either, so a request is looked through before it is read.

import { isUtf8 } from "node:buffer";
import { join } from "node:path";
import protobuf from "protobufjs";
import createXxHash from "xxhash-wasm";

export const { h64Raw } = await createXxHash();

// The property of a request that is its checksum (rule C1), to be compared with the one that was sent.
export const CHECKSUM = Symbol("checksum");

const CHECKSUM_TAG = protobuf.Writer.create().uint32((999 << 3) | 1).finish();
const FRAMES_TAG = (1000 << 3) | 2;

// Wraps a method of a service definition so that it refuses such requests, and adds checksums.
export function strict(method, folder) {
  const root = new protobuf.Root();
  root.resolvePath = (origin, target) => (target.startsWith("google/") ? target : join(folder, target));
  root.loadSync("overworld/v1/env.proto", { keepCase: true });
  const type = root.lookupType(`overworld.v1.${method.requestType.type.name}`);
  const checksum = (bytes) => h64Raw(Buffer.concat([Buffer.from(method.path), bytes]), 0n);
  const requestDeserialize = (bytes) => {
    walk(protobuf.Reader.create(bytes), type);
    const request = method.requestDeserialize(bytes);
    return Object.defineProperty(request, CHECKSUM, { value: checksum(bytes).toString(16).padStart(16, "0") });
  };
  const responseSerialize = ({ frames, ...response }) => {
    const bytes = method.responseSerialize(response);
    const hash = Buffer.alloc(8);
    hash.writeBigUInt64LE(checksum(bytes));
    const parts = [bytes, CHECKSUM_TAG, hash];
    if (frames) parts.push(protobuf.Writer.create().uint32(FRAMES_TAG).uint32(frames.length).finish(), frames);
    return Buffer.concat(parts);
  };
  return { ...method, requestDeserialize, responseSerialize };
}

// Throws where the reader's bytes, up to its end, are not a message of this type.
function walk(reader, type) {
  while (reader.pos < reader.len) {
    const tag = reader.uint32();
    const field = type.fieldsById[tag >>> 3]?.resolve();
    if ((tag & 7) !== 2 || !field) {
      reader.skipType(tag & 7, 0, tag >>> 3);
      continue;
    }
    const bytes = reader.bytes();
    if (field.resolvedType?.fieldsById && !field.map) walk(protobuf.Reader.create(bytes), field.resolvedType);
    else if (field.type === "string" && !isUtf8(bytes)) throw new Error(`${field.fullName} is not UTF-8`);
  }
}
