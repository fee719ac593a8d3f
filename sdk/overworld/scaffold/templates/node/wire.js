// Requests that are no messages. protobufjs reads over the end of a string and over bytes that are not UTF-8; protobuf
// does not allow either, so a request is looked through before it is read.

import { isUtf8 } from "node:buffer";
import { join } from "node:path";
import protobuf from "protobufjs";

// Wraps a method of a service definition so that it refuses such requests.
export function strict(method, folder) {
  const root = new protobuf.Root();
  root.resolvePath = (origin, target) => (target.startsWith("google/") ? target : join(folder, target));
  root.loadSync("overworld/v1/env.proto", { keepCase: true });
  const type = root.lookupType(`overworld.v1.${method.requestType.type.name}`);
  const requestDeserialize = (bytes) => {
    walk(protobuf.Reader.create(bytes), type);
    return method.requestDeserialize(bytes);
  };
  return { ...method, requestDeserialize };
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
