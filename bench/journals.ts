import { awaitValue, type Node } from './processes.ts';
import type { StageOptions } from './stage.ts';

/** Nodes that keep journals, each in a folder of its own. */
export const JOURNALING: StageOptions = { nodeArgs: ({ makeFolder }) => ['--journal-dir', makeFolder()] };

/** Until each node says that its journal lacks nothing. */
export async function awaitJournals(nodes: readonly Node[]): Promise<void> {
  for (const { api } of nodes) {
    await awaitValue(`the journal of ${api} being whole`, async () => {
      const metrics = await (await fetch(`${api}/metrics`)).text();
      return /^ringbeat_journal_whole 1$/m.test(metrics) ? true : null;
    });
  }
}
