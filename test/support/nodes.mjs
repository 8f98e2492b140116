// Runs the test suite on every Node that is supported, one after another: `npm run test:nodes [-- vitest arguments]`.
import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('../..', import.meta.url));
const args = ['node_modules/vitest/vitest.mjs', 'run', '--project=!proof', ...process.argv.slice(2)];
const own = process.versions.node.split('.')[0];

/** Runs a script on that Node, which npx fetches if it is not the one that runs this file. */
function run(major, script, options) {
  // npx puts the Node that it fetched on PATH, so a child process that is started as `node` is that Node too.
  const [command, ...before] = major === own ? [process.execPath] : ['npx', '-y', `node@${major}`];
  return spawnSync(command, [...before, ...script], { cwd: root, encoding: 'utf8', ...options });
}

const legs = [...new Set(['20', own, '22', '24'])].map((major) => {
  const version = run(major, ['--version']).stdout?.trim() || `${major}: not to be had`;
  process.stdout.write(`\n=== Node ${version} ===\n`);
  const started = performance.now();
  // A leg that was asked for and is another Node proves nothing.
  const passed = version.startsWith(`v${major}.`) && run(major, args, { stdio: ['ignore', 'inherit', 'inherit'] }).status === 0;
  return { node: version, result: passed ? 'passed' : 'FAILED', seconds: Math.round((performance.now() - started) / 1000) };
});

console.table(legs);
process.exitCode = legs.every(({ result }) => result === 'passed') ? 0 : 1;
