// Refused calls: a google.rpc.Status with an ErrorInfo of the domain overworld.v1 (proto/README.md, Errors).

import { Metadata, status } from "@grpc/grpc-js";
import protobuf from "protobufjs";

const { root } = protobuf.parse(
  `syntax = "proto3";
   message Any { string type_url = 1; bytes value = 2; }
   message ErrorInfo { string reason = 1; string domain = 2; map<string, string> metadata = 3; }
   message Status { int32 code = 1; string message = 2; repeated Any details = 3; }`,
  { keepCase: true }, // or type_url would be typeUrl, and left out in silence
);
const [ErrorInfo, Status] = ["ErrorInfo", "Status"].map((name) => root.lookupType(name));

const CODES = {
  TOKEN_MISSING: status.UNAUTHENTICATED,
  TOKEN_WRONG: status.UNAUTHENTICATED,
  CORRUPTED: status.DATA_LOSS,
  REQUEST_INVALID: status.INVALID_ARGUMENT,
  ENV_UNKNOWN: status.NOT_FOUND,
  OPTIONS_INVALID: status.INVALID_ARGUMENT,
  FEATURE_MISSING: status.FAILED_PRECONDITION,
  EXPERT_NOT_ALLOWED: status.PERMISSION_DENIED,
  NO_FREE_SLOTS: status.RESOURCE_EXHAUSTED,
  DRAINING: status.UNAVAILABLE,
  SESSION_CONFLICT: status.ALREADY_EXISTS,
  SESSION_UNKNOWN: status.NOT_FOUND,
  SLOT_UNKNOWN: status.OUT_OF_RANGE,
  SLOT_REPEATED: status.INVALID_ARGUMENT,
  SPLIT_UNKNOWN: status.INVALID_ARGUMENT,
  TASK_UNKNOWN: status.OUT_OF_RANGE,
  ACTION_TOO_LARGE: status.INVALID_ARGUMENT,
  CONFLICT: status.ALREADY_EXISTS,
  STALE: status.FAILED_PRECONDITION,
  BUSY: status.FAILED_PRECONDITION,
  NOT_RESET: status.FAILED_PRECONDITION,
  EPISODE_ENDED: status.FAILED_PRECONDITION,
  TURN_SKIPPED: status.FAILED_PRECONDITION,
};

// What a client sent, for a message: it may be long, and a message travels in a header.
export const quoted = (text) => JSON.stringify(text.length > 80 ? `${text.slice(0, 80)}...` : text);

export class Refusal extends Error {
  // `reason` is one of the README's table.
  constructor(reason, message) {
    super(message);
    this.code = CODES[reason];
    const info = ErrorInfo.encode({ reason, domain: "overworld.v1" }).finish();
    const details = [{ type_url: "type.googleapis.com/google.rpc.ErrorInfo", value: info }];
    this.metadata = new Metadata();
    this.metadata.set("grpc-status-details-bin", Buffer.from(Status.encode({ code: this.code, message, details }).finish()));
  }
}
